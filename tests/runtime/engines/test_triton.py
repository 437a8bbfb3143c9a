"""An encoder on a server: the same numbers, and what happens when the server is not what or where it should be."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def test_two_engines_of_one_process_each_get_their_own_answers(stub: StubTriton) -> None:
    faces = crops(4)
    expected = features("cpu", faces)

    def ask(number: int) -> None:
        own, told = slice(2 * number, 2 * number + 2), list[str]()
        with open_graph(Bundle.open(DEMO), ENCODER, stub.address, report=told.append) as engine:
            for _ in range(40):
                np.testing.assert_allclose(engine.run({"frames": faces[own]})["features"], expected[own], atol=1e-5)
        assert not told

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, range(2)))


def rows_of(video: Path, provider: str) -> list[tuple[float, int, str, list[float]]]:
    with Recognizer(DEMO, provider=provider, precision="fp32") as recognizer:
        assert recognizer.provider == provider
        return [
            (one.time, one.track_id, one.label, one.probabilities.round(4).tolist()) for one in recognizer.stream(video)
        ]


def test_rows_are_those_of_the_cpu(stub: StubTriton, face_video: Path) -> None:
    expected = rows_of(face_video, "cpu")
    assert expected
    assert rows_of(face_video, stub.address) == expected


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
        engine.run({"frames": crops(1)})
        stub.kill()
        stub._config = stub._config.replace(Bundle.open(DEMO).digest, "0" * 64)
        stub.start()
        with pytest.raises(DferError, match="serves another bundle"):
            engine.run({"frames": crops(1)})


def test_another_model_that_took_the_place_is_refused(stub: StubTriton, bundle: Path, tmp_path: Path) -> None:
    edit_manifest(bundle, scale=50.0)
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        before = engine.run({"frames": crops(1)})["features"]
        stub.replace(write_repository(Bundle.open(bundle), tmp_path / "models", "fp32"))
        for _ in range(2):
            with pytest.raises(DferError, match=r"serves another model, version \d+, not \d+; write its repository"):
                engine.run({"frames": crops(1)})
        with pytest.raises(DferError, match="serves another bundle"):
            features(stub.address, crops(1))
        stub.replace(write_repository(Bundle.open(DEMO), tmp_path / "models", "fp32"))
        assert (engine.run({"frames": crops(1)})["features"] == before).all()


def test_a_repository_of_an_earlier_release_is_refused_when_it_is_opened(stub: StubTriton) -> None:
    stub._version = "1"
    with pytest.raises(DferError, match=r"serves another model, version 1, not \d+; write its repository again with"):
        Recognizer(DEMO, provider=stub.address)


def test_a_server_that_hangs_is_not_waited_for_without_end(stub: StubTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_TIMEOUT", 1.0)
    monkeypatch.setattr(triton, "_AWAY", 0.3)
    hung = threading.Event()

    def hang(path: str) -> None:
        if path.endswith(("/infer", "/ready")):
            hung.wait(60)

    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.respond = hang
        begun = time.monotonic()
        with pytest.raises(DferError, match="does not answer: timed out"):
            engine.run({"frames": crops(1)})
        assert time.monotonic() - begun < 30
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": []}, "serves another bundle"),
        ({"parameters": None}, "serves another bundle"),
        ({"parameters": {"bundle_digest": "none"}}, "serves another bundle"),
        ({"max_batch_size": "many"}, "its max_batch_size is no number"),
        ({"max_batch_size": math.inf}, "its max_batch_size is no number"),
        ({"precision": "fp8"}, "serves the encoder in 'fp8', of which bundle"),
    ],
)
def test_a_description_of_the_model_that_is_none_is_an_error(
    stub: StubTriton, change: dict[str, Any], words: str
) -> None:
    config = stub.config()
    if "precision" in change:
        config["parameters"]["precision"] = {"string_value": change.pop("precision")}
    body = json.dumps(config | change).encode()
    stub.respond = lambda path: (200, {}, body) if path.endswith("/config") else None
    with pytest.raises(DferError, match=words):
        open_graph(Bundle.open(DEMO), ENCODER, stub.address).run({"frames": crops(1)})


def test_an_answer_without_end_is_refused_before_it_fills_the_memory(stub: StubTriton) -> None:
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        before = engine.run({"frames": crops(1)})["features"]
        large = b"{}" + bytes(100 << 20)
        stub.respond = lambda path: (200, {HEADER: "2"}, large) if path.endswith("/infer") else None
        tracemalloc.start()
        with pytest.raises(DferError, match="answers with more than 1049088 bytes; is this Triton's HTTP port"):
            engine.run({"frames": crops(1)})
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()
        stub.respond = lambda path: None
        assert (engine.run({"frames": crops(1)})["features"] == before).all()


def test_an_answer_that_breaks_off_is_asked_for_again(stub: StubTriton) -> None:
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        before = engine.run({"frames": crops(1)})["features"]
        broken = [(200, {"Content-Length": "999", "Connection": "close"}, b"{}")]
        stub.respond = lambda path: broken.pop() if broken and path.endswith("/infer") else None
        assert (engine.run({"frames": crops(1)})["features"] == before).all()
        assert not broken


@pytest.mark.parametrize("size", [0, 4, math.inf])
def test_tensors_that_are_not_whole_are_no_results(stub: StubTriton, size: float) -> None:
    output = {"name": "features", "datatype": "FP32", "shape": [1, 128], "parameters": {"binary_data_size": size}}
    version = triton.version_of(Bundle.open(DEMO).digest, "fp32")
    head = json.dumps({"model_version": version, "outputs": [output]}).encode()
    with open_graph(Bundle.open(DEMO), ENCODER, stub.address) as engine:
        stub.respond = lambda path: (
            (200, {HEADER: str(len(head))}, head + bytes(4)) if path.endswith("/infer") else None
        )
        with pytest.raises(DferError, match="its answer is not one of KServe's protocol: cannot "):
            engine.run({"frames": crops(1)})


def test_the_header_for_authorization_comes_from_the_environment(
    stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    features(stub.address, crops(1))
    assert not any("Authorization" in headers for _, _, headers in stub.requests)
    stub.requests.clear()
    monkeypatch.setenv("DFER_TRITON_AUTHORIZATION", "Bearer abc")
    features(stub.address, crops(1))
    assert {headers.get("Authorization") for _, _, headers in stub.requests} == {"Bearer abc"}


@pytest.mark.parametrize("value", ["Bearer abc\n", "Bearer ключ"])
def test_an_authorization_that_is_no_header_is_an_error(
    stub: StubTriton, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DFER_TRITON_AUTHORIZATION", value)
    with pytest.raises(DferError, match="DFER_TRITON_AUTHORIZATION holds a line break") as told:
        Recognizer(DEMO, provider=stub.address)
    assert "\n" not in str(told.value) and "abc" not in str(told.value)


def test_a_model_that_is_not_there_and_a_port_where_nothing_is(stub: StubTriton) -> None:
    with pytest.raises(DferError, match="answers 404: Request for unknown model"):
        Recognizer(DEMO, provider=f"triton://127.0.0.1:{stub.port}/other")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(DferError, match="does not answer: Connection refused"):
            Recognizer(DEMO, provider=f"triton://127.0.0.1:{silent.getsockname()[1]}/demo-encoder")
    with pytest.raises(DferError, match=r"triton://\[::1\]:1/demo-encoder does not answer"):
        Recognizer(DEMO, provider="triton://[::1]:1/demo-encoder")


def test_https_is_spoken_where_it_is_asked_for(stub: StubTriton) -> None:
    with pytest.raises(DferError, match=r"does not answer: .*SSL"):
        Recognizer(DEMO, provider=stub.address.replace("triton:", "triton+https:"))


def certify(folder: Path, name: str) -> Path:
    """A certificate for that name which nobody signed but itself, with its key, in one PEM file."""
    made, key = folder / "server.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=triton"
    options = ["-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificate")
class TestTls:
    @pytest.fixture
    def secure(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubTriton]:
        """A server with a certificate of its own, which is trusted."""
        certificate = certify(tmp_path, "IP:127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with StubTriton(model, certificate) as server:
            yield server

    def test_rows_are_those_over_plain_http(self, secure: StubTriton, stub: StubTriton, face_video: Path) -> None:
        assert secure.address.startswith("triton+https://")
        assert (features(secure.address, crops(20)) == features(stub.address, crops(20))).all()
        assert rows_of(face_video, secure.address) == rows_of(face_video, stub.address)

    def test_the_header_for_authorization_arrives(self, secure: StubTriton, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DFER_TRITON_AUTHORIZATION", "Bearer abc")
        features(secure.address, crops(1))
        assert {headers.get("Authorization") for _, _, headers in secure.requests} == {"Bearer abc"}

    def test_a_server_that_starts_anew_is_waited_for(self, secure: StubTriton) -> None:
        with open_graph(Bundle.open(DEMO), ENCODER, secure.address) as engine:
            before = engine.run({"frames": crops(2)})["features"]
            secure.hang_up()
            assert (engine.run({"frames": crops(2)})["features"] == before).all()
            secure.kill()
            back = threading.Timer(0.5, secure.start)
            back.start()
            assert (engine.run({"frames": crops(2)})["features"] == before).all()
            back.join()

    def test_a_certificate_that_is_not_trusted_is_refused(
        self, secure: StubTriton, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("DFER_TRITON_AUTHORIZATION", "Bearer abc")
        with pytest.raises(
            DferError, match=r"certificate is refused: self.signed certificate; .*\$SSL_CERT_FILE"
        ) as told:
            Recognizer(DEMO, provider=secure.address)
        assert "\n" not in str(told.value)
        assert not secure.requests  # nor was the token sent

    def test_a_certificate_for_another_name_is_refused(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate = certify(tmp_path, "DNS:elsewhere.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with StubTriton(model, certificate) as server:
            with pytest.raises(DferError, match=r"refused: .*not valid for '127\.0\.0\.1'"):
                Recognizer(DEMO, provider=server.address)
            assert not server.requests


@pytest.mark.parametrize(
    "address",
    [
        "triton://",
        "triton://host",
        "triton:///model",
        "triton://host:x/m",
        "triton://h:99999/m",
        "triton://h/a/b",
        "triton://h/modèle",
        "triton://[::1/m",
    ],
)
def test_an_address_that_is_none_says_how_one_is_written(address: str) -> None:
    with pytest.raises(ParameterError, match="write triton://HOST:8000/MODEL"):
        find_backend(address)


def test_passwords_have_another_place() -> None:
    with pytest.raises(ParameterError, match="DFER_TRITON_AUTHORIZATION"):
        find_backend("triton://me:secret@host/model")
