"""The real Triton on the repository that is shipped. Needs the server unpacked; see `.ci/triton`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from triton_servers import RealTriton, real_triton

from dfer.export.model_repository import write_repository
from dfer.runtime import Recognizer
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import open_graph
from dfer.runtime.errors import DferError
from helpers import edit_manifest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(real_triton() is None, reason="there is no Triton server here"),
]
ENCODER = "encoder.fp32.onnx"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTriton]:
    work = tmp_path_factory.mktemp("triton")
    write_repository(Bundle.open(DEMO), work / "models", "fp32")
    with RealTriton(work / "models", work) as running:
        yield running


@pytest.fixture
def address(server: RealTriton) -> str:
    return f"triton://127.0.0.1:{server.port}/demo-encoder"


def test_features_are_those_of_the_cpu(address: str) -> None:
    bundle = Bundle.open(DEMO)
    faces = np.random.default_rng(0).integers(0, 256, (40, 80, 80, 3), dtype=np.uint8)
    with open_graph(bundle, ENCODER, address) as there, open_graph(bundle, ENCODER, "cpu") as here:
        np.testing.assert_allclose(
            there.run({"frames": faces})["features"], here.run({"frames": faces})["features"], atol=1e-4
        )


def test_sixteen_clients_share_batches(server: RealTriton, address: str) -> None:
    bundle, calls = Bundle.open(DEMO), 30
    faces = np.random.default_rng(0).integers(0, 256, (16, 1, 80, 80, 3), dtype=np.uint8)
    with open_graph(bundle, ENCODER, "cpu") as here:
        expected = here.run({"frames": faces[:, 0]})["features"]

    def ask(client: int) -> None:
        with open_graph(bundle, ENCODER, address) as there:
            for _ in range(calls):
                found = there.run({"frames": faces[client]})["features"]
                np.testing.assert_allclose(found[0], expected[client], atol=1e-4)

    before = server.batches("demo-encoder")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    end = time.monotonic() + 60  # Triton counts a row after it has answered
    while (after := server.batches("demo-encoder"))[0] < before[0] + 16 * calls and time.monotonic() < end:
        time.sleep(0.05)
    rows, runs = after[0] - before[0], after[1] - before[1]
    assert rows == 16 * calls
    assert runs < rows  # by four and more times where nothing else runs


def test_a_run_goes_on_when_the_server_was_killed_and_is_back(
    server: RealTriton, address: str, face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.engines.triton._AWAY", 180.0)
    told: list[str] = []
    with Recognizer(DEMO, provider=address, warn=told.append) as recognizer:
        expected = [(one.time, one.label) for one in recognizer.stream(face_video)]
        rows = []
        for one in recognizer.stream(face_video):
            rows.append((one.time, one.label))
            if len(rows) == 3:
                server.kill()
                threading.Thread(target=server.start).start()
    assert rows == expected
    assert [line for line in told if "waiting for it" in line]


def test_a_model_that_is_replaced_while_the_server_runs_is_refused(bundle: Path, tmp_path: Path) -> None:
    models, faces = tmp_path / "models", np.zeros((1, 80, 80, 3), np.uint8)
    written = write_repository(Bundle.open(DEMO), models, "fp32")
    own = bundle.rename(tmp_path / DEMO.name)  # models are called like their bundle
    edit_manifest(own, scale=50.0)
    with RealTriton(models, tmp_path, "--model-control-mode=poll", "--repository-poll-secs=1") as server:
        address = f"triton://127.0.0.1:{server.port}/{written.name}"
        with open_graph(Bundle.open(DEMO), ENCODER, address) as there:
            there.run({"frames": faces})
            assert write_repository(Bundle.open(own), models, "fp32") == written
            with pytest.raises(DferError, match=r"serves another model, version \d+, not \d+; write its"):
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    there.run({"frames": faces})
                    time.sleep(0.1)
        with open_graph(Bundle.open(own), ENCODER, address) as there:
            assert there.run({"frames": faces})["features"].shape == (1, 128)


def test_another_bundle_is_refused(address: str, bundle: Path) -> None:
    edit_manifest(bundle, scale=50.0)
    with pytest.raises(DferError, match="serves another bundle"):
        Recognizer(bundle, provider=address)
