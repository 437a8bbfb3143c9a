"""From a bundle's graph to a running engine, on a fake GPU: built once on the device, found afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import native
from dfer.runtime.engines.building import BuiltEngine
from dfer.runtime.engines.store import EngineStore
from dfer.runtime.errors import DferError
from fake_gpu import FRAME, FakeCuda, fake_library, features_of

GRAPH = "encoder.fp32.onnx"


class Device:
    """A machine with a fake GPU and TensorRT; remembers the targets that were built for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, product: str) -> None:
        self.product, self.cuda = product, FakeCuda()
        self.library, self.faults = fake_library(self.cuda, product)
        self.built: list[str | None] = []
        monkeypatch.setattr(native, "load_trt", lambda _: self.library)
        monkeypatch.setattr(native, "open_cuda", lambda: self.cuda)
        monkeypatch.setattr(native, "build_engine", self.build)

    def build(
        self, library: object, graph: bytes, name: str, target: str | None, *_: object, **__: object
    ) -> BuiltEngine:
        self.built.append(target)
        return BuiltEngine(b"engine", None, 2.0)


@pytest.fixture
def demo(tmp_path: Path, own_cache: Path) -> Bundle:
    path = shutil.copytree(DEMO, tmp_path / "demo.dfer", ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(path)


@pytest.mark.parametrize(
    ("product", "target", "file"),
    [
        ("tensorrt", None, "encoder.fp32.tensorrt.10.3.0.fake-gpu-3000.engine"),
        ("tensorrt-rtx", "sm86", "encoder.fp32.tensorrt-rtx.10.3.0.sm86.engine"),
    ],
)
def test_an_engine_is_built_for_this_gpu_when_none_fits_and_only_then(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, product: str, target: str | None, file: str
) -> None:
    device = Device(monkeypatch, product)
    crops = np.full((3, *FRAME), 7, np.uint8)
    said: list[str] = []
    for _ in range(2):
        with native.open_native(demo, GRAPH, device.product, report=said.append) as engine:
            np.testing.assert_array_equal(engine.run({"frames": crops})["features"], features_of(crops))
            assert engine.provider == product
    assert device.built == [target]
    assert "done once" in said[0] and said[1:] == [f"built {GRAPH} in 2.0 s"]
    assert (EngineStore(demo).folder / file).is_file() and not (demo.path / "engines").exists()
    device.cuda.capability = (8, 9)
    device.cuda.name = "Fake GPU 4000"
    native.open_native(demo, GRAPH, device.product).close()
    assert len(device.built) == 2


def test_a_gpu_that_tensorrt_rtx_does_not_know_is_refused_and_let_go(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch, "tensorrt-rtx")
    device.cuda.capability = (9, 0)
    with pytest.raises(DferError, match="does not build for sm90"):
        native.open_native(demo, GRAPH, device.product)
    assert device.cuda.closed and device.built == []


def test_a_graph_that_the_bundle_does_not_list_is_refused(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, "tensorrt")
    with pytest.raises(DferError, match=r"lists no \.\./other.onnx"):
        native.open_native(demo, "../other.onnx", device.product)
    assert device.cuda.closed


def test_what_tensorrt_rtx_compiled_is_kept_for_the_next_start(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, "tensorrt-rtx")
    crops, calls = np.zeros((2, *FRAME), np.uint8), device.cuda.calls
    kept = EngineStore(demo).folder / "encoder.fp32.tensorrt-rtx.10.3.0.sm86.runtime-cache"
    for start in range(3):
        with native.open_native(demo, GRAPH, device.product) as engine:
            engine.run({"frames": crops})
        assert kept.read_bytes() == b"Fake GPU 3000: kernels"
        assert calls["deserialize_kernels"] == start
    written = kept.stat().st_mtime_ns
    native.open_native(demo, GRAPH, device.product).close()
    assert kept.stat().st_mtime_ns == written  # nothing new was compiled
    kept.write_bytes(b"Fake GPU 3000: KERNELS")  # native code that is not ours is not handed over
    native.open_native(demo, GRAPH, device.product).close()
    assert calls["deserialize_kernels"] == 3
    with native.open_native(demo, GRAPH, device.product) as engine:
        engine.run({"frames": crops})
    device.cuda.name = "Fake GPU 3090"  # the same target: the engine fits, what was compiled does not
    with native.open_native(demo, GRAPH, device.product) as engine:
        np.testing.assert_array_equal(engine.run({"frames": crops})["features"], features_of(crops))
    assert kept.read_bytes() == b"Fake GPU 3090: kernels"
    assert len(device.built) == 1


def test_kernels_that_cannot_be_kept_are_said_and_the_run_stands(
    demo: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch, "tensorrt-rtx")
    said: list[str] = []
    with native.open_native(demo, GRAPH, device.product, report=said.append) as engine:
        engine.run({"frames": np.zeros((2, *FRAME), np.uint8)})
        shutil.rmtree(own_cache)
        own_cache.write_text("in the way")
    assert "compiled again" in said[-1] and "cannot write engines" in said[-1]
    assert (device.cuda.device, device.cuda.pinned, device.cuda.closed) == ({}, {}, True)


def test_tensorrt_compiles_nothing_at_run_time(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, "tensorrt")
    with native.open_native(demo, GRAPH, device.product) as engine:
        engine.run({"frames": np.zeros((2, *FRAME), np.uint8)})
    assert not list(EngineStore(demo).folder.glob("*.runtime-cache"))
