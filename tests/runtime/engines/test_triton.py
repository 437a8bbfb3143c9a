"""An encoder on a server: the same numbers, and what happens when the server is not what or where it should be."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from triton_servers import HEADER, StubTriton

from dfer.export.model_repository import write_repository
from dfer.runtime import Recognizer
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import find_backend, open_graph, triton
from dfer.runtime.errors import DferError, ParameterError
from helpers import edit_manifest

ENCODER, HEAD = "encoder.fp32.onnx", "head.fp32.onnx"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(Bundle.open(DEMO), tmp_path_factory.mktemp("triton") / "models", "fp32")


@pytest.fixture
def stub(model: Path) -> Iterator[StubTriton]:
    triton.backend_at.cache_clear()  # ports are used again
    with StubTriton(model) as server:
        yield server


def crops(count: int) -> NDArray[np.uint8]:
    size = Bundle.open(DEMO).manifest.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def features(provider: str, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    with open_graph(Bundle.open(DEMO), ENCODER, provider) as engine:
        return engine.run({"frames": faces})["features"]


def test_features_are_those_of_the_cpu_in_batches_that_the_server_takes(stub: StubTriton) -> None:
    faces = crops(40)
    np.testing.assert_allclose(features(stub.address, faces), features("cpu", faces), atol=1e-5)
    assert [path for _, path, _ in stub.requests].count("/v2/models/demo-encoder/infer") == 3  # 16, 16 and 8


def test_rows_are_those_of_the_cpu(stub: StubTriton, face_video: Path) -> None:
    def rows(provider: str) -> list[tuple[float, int, str, list[float]]]:
        with Recognizer(DEMO, provider=provider, precision="fp32") as recognizer:
            assert recognizer.provider == provider
            return [
                (one.time, one.track_id, one.label, one.probabilities.round(4).tolist())
                for one in recognizer.stream(face_video)
            ]

    expected = rows("cpu")
    assert expected
    assert rows(stub.address) == expected


def test_the_head_runs_here_and_the_precision_is_the_servers(stub: StubTriton) -> None:
    with Recognizer(DEMO, provider=stub.address) as recognizer:
        assert recognizer.precision == "fp32"
    with open_graph(Bundle.open(DEMO), HEAD, stub.address) as head:
        assert head.provider == "cpu"
    with pytest.raises(DferError, match=r"does not run int8 here|is for provider cpu"):
        Recognizer(DEMO, provider=stub.address, precision="int8")


def test_another_bundle_than_is_served_is_refused(stub: StubTriton, bundle: Path) -> None:
    edit_manifest(bundle, scale=50.0)
    with pytest.raises(DferError, match=r"serves another bundle \(\w{12}, not \w{12}\); write its repository with"):
        Recognizer(bundle, provider=stub.address)


def test_a_server_that_is_away_for_a_while_is_waited_for(stub: StubTriton) -> None:
    told: list[str] = []
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address, report=told.append) as engine:
        before = engine.run({"frames": crops(2)})["features"]
        stub.kill()
        back = threading.Timer(0.7, stub.start)
        back.start()
        after = engine.run({"frames": crops(2)})["features"]
        back.join()
        assert (after == before).all()
        (message,) = told
        assert message.endswith("; waiting for it, 30 s at most")
        assert engine.run({"frames": crops(1)})["features"].shape == (1, before.shape[1])
    assert len(told) == 1


def test_a_connection_that_the_server_closed_is_opened_again_without_a_word(stub: StubTriton) -> None:
    told: list[str] = []
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address, report=told.append) as engine:
        before = engine.run({"frames": crops(2)})["features"]
        stub.hang_up()
        assert (engine.run({"frames": crops(2)})["features"] == before).all()
    assert not told


def test_a_server_that_stays_away_is_an_error(stub: StubTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_AWAY", 0.3)
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.kill()
        with pytest.raises(DferError, match="demo-encoder does not answer: Connection refused"):
            engine.run({"frames": crops(1)})
        stub.start()


def test_another_bundle_after_the_server_was_away_is_refused(stub: StubTriton) -> None:
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.kill()
        stub._config = stub._config.replace(Bundle.open(DEMO).digest, "0" * 64)
        stub.start()
        with pytest.raises(DferError, match="serves another bundle"):
            engine.run({"frames": crops(1)})


def test_a_server_that_hangs_is_not_waited_for_without_end(stub: StubTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_TIMEOUT", 0.3)
    monkeypatch.setattr(triton, "_AWAY", 0.3)
    hung = threading.Event()

    def hang(path: str) -> None:
        if path.endswith(("/infer", "/ready")):
            hung.wait(20)

    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.respond = hang
        begun = time.monotonic()
        with pytest.raises(DferError, match="does not answer: timed out"):
            engine.run({"frames": crops(1)})
        assert time.monotonic() - begun < 5
    hung.set()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((400, {}, b'{"error": "unexpected shape for input frames"}'), "answers 400: unexpected shape for input"),
        ((401, {}, b"<html>no</html>"), "answers 401: Unauthorized"),
        ((200, {}, b"<html>a page</html>"), "does not speak KServe's protocol; is this Triton's HTTP port"),
        ((200, {}, b"{}"), "its answer is not one of KServe's protocol"),
        ((200, {HEADER: "9999"}, b'{"outputs": []'), "does not speak KServe's protocol"),
        ((200, {HEADER: "many"}, b"{}"), "does not speak KServe's protocol"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_not_repeated(
    stub: StubTriton, answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.respond = lambda path: answer if path.endswith("/infer") else None
        with pytest.raises(DferError, match=words):
            engine.run({"frames": crops(1)})
    assert [path for _, path, _ in stub.requests].count("/v2/models/demo-encoder/infer") == 1


@pytest.mark.parametrize("size", [0, 4])
def test_tensors_that_are_not_whole_are_no_results(stub: StubTriton, size: int) -> None:
    output = {"name": "features", "datatype": "FP32", "shape": [1, 128], "parameters": {"binary_data_size": size}}
    head = json.dumps({"outputs": [output]}).encode()
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.respond = lambda path: (
            (200, {HEADER: str(len(head))}, head + bytes(size)) if path.endswith("/infer") else None
        )
        with pytest.raises(DferError, match="its answer is not one of KServe's protocol: cannot reshape"):
            engine.run({"frames": crops(1)})


def test_the_header_for_authorization_comes_from_the_environment(
    stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    features(stub.address, crops(1))
    assert not any("Authorization" in headers for _, _, headers in stub.requests)
    stub.requests.clear()
    triton.backend_at.cache_clear()
    monkeypatch.setenv("DFER_TRITON_AUTHORIZATION", "Bearer abc")
    features(stub.address, crops(1))
    assert {headers.get("Authorization") for _, _, headers in stub.requests} == {"Bearer abc"}


def test_a_model_that_is_not_there_and_a_port_where_nothing_is(stub: StubTriton) -> None:
    with pytest.raises(DferError, match="answers 404: Request for unknown model"):
        Recognizer(DEMO, provider=f"triton://127.0.0.1:{stub.port}/other")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(DferError, match="does not answer: Connection refused"):
            Recognizer(DEMO, provider=f"triton://127.0.0.1:{silent.getsockname()[1]}/demo-encoder")


def test_https_is_spoken_where_it_is_asked_for(stub: StubTriton) -> None:
    with pytest.raises(DferError, match=r"does not answer: .*SSL"):
        Recognizer(DEMO, provider=stub.address.replace("triton:", "triton+https:"))


@pytest.mark.parametrize(
    "address",
    ["triton://", "triton://host", "triton:///model", "triton://host:x/m", "triton://h:99999/m", "triton://h/a/b"],
)
def test_an_address_that_is_none_says_how_one_is_written(address: str) -> None:
    with pytest.raises(ParameterError, match="write triton://HOST:8000/MODEL"):
        find_backend(address)


def test_passwords_have_another_place() -> None:
    with pytest.raises(ParameterError, match="DFER_TRITON_AUTHORIZATION"):
        find_backend("triton://me:secret@host/model")
