"""Engines of every graph we export, built with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dfer.export.engine import build_engines
from dfer.runtime.bundle import Bundle
from dfer.runtime.engines.building import TARGETS, build_engine, check_target, parse_network
from dfer.runtime.engines.native import open_native, stored_engine
from dfer.runtime.engines.store import EngineStore
from dfer.runtime.engines.trt_library import TrtLibrary, is_installed, load_trt
from dfer.runtime.errors import DferError

MODERN = ("sm86", "sm89", "sm120")


@pytest.fixture(autouse=True)
def empty_cache(own_cache: Path) -> None:
    """No test finds what another has built."""


@pytest.fixture
def rtx() -> TrtLibrary:
    if not is_installed("tensorrt-rtx"):
        pytest.skip("TensorRT-RTX is not installed: pip install 'dfer-edge[tensorrt-rtx]'")
    load = load_trt("tensorrt-rtx")
    load.errors.clear()
    return load


def graphs_of(bundle: Bundle) -> list[str]:
    """Every graph that is meant for GPUs too."""
    return sorted(name for name in bundle.digests if name.endswith(".onnx") and not name.endswith(".cpu.onnx"))


def test_every_graph_builds_for_every_modern_target_with_no_gpu(bundle: Path, rtx: TrtLibrary) -> None:
    opened = Bundle.open(bundle)
    graphs = graphs_of(opened)
    assert {"encoder.fp32.onnx", "head.fp32.onnx"} <= set(graphs)
    rows = build_engines(opened, graphs, "tensorrt-rtx", MODERN)
    assert [(row.target, row.graph) for row in rows] == [(target, graph) for target in MODERN for graph in graphs]
    assert all(row.seconds is not None and row.size > 1000 for row in rows)
    again = build_engines(Bundle.open(bundle), graphs, "auto", [target.upper() for target in MODERN])
    assert [(row.size, row.seconds) for row in again] == [(row.size, None) for row in rows]


def test_inputs_outputs_and_layers_are_what_the_graph_says(bundle: Path, rtx: TrtLibrary) -> None:
    opened, kinds = Bundle.open(bundle), rtx.module.DataType
    size, width, window = opened.manifest.preprocessing.size, opened.manifest.width, opened.manifest.window
    ends = {
        "encoder": ((kinds.UINT8, (-1, size, size, 3)), (kinds.FLOAT, (-1, width))),
        "head": ((kinds.FLOAT, (-1, window, width)), (kinds.FLOAT, (-1, len(opened.manifest.classes)))),
    }
    for graph in graphs_of(opened):
        part, precision = graph.split(".")[:2]
        _, network = parse_network(rtx, opened.read(graph), graph)
        tensors = [network.get_input(0), network.get_output(0)]
        assert (network.num_inputs, network.num_outputs) == (1, 1)
        assert tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors) == ends[part]
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        types = Counter(layer.type for layer in layers)
        products = Counter(
            layer.get_output(0).dtype for layer in layers if layer.type == rtx.module.LayerType.MATRIX_MULTIPLY
        )
        if precision == "fp16":
            assert products[kinds.HALF] > products[kinds.FLOAT], graph
        else:
            assert set(products) == {kinds.FLOAT}, graph
        assert (types[rtx.module.LayerType.QUANTIZE] > 0) == (precision == "int8"), graph


def test_progress_is_told_and_can_stop_a_build(bundle: Path, rtx: TrtLibrary) -> None:
    opened = Bundle.open(bundle)
    told: list[tuple[str, int, int]] = []
    stored_engine(opened, "head.fp32.onnx", rtx, "sm86", progress=lambda *step: told.append(step))
    assert len(told) > 10 and all(0 <= done <= total for _, done, total in told)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored_engine(opened, "head.fp32.onnx", rtx, "sm89", progress=stop)
    assert not list(EngineStore(opened).folder.glob("*sm89*"))


def test_a_replaced_engine_is_refused_before_tensorrt_sees_it(
    bundle: Path, rtx: TrtLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundle)
    data, _ = stored_engine(opened, "head.fp32.onnx", rtx, "sm86")
    (file,) = EngineStore(opened).folder.glob("*.engine")
    file.write_bytes(bytes(reversed(data)))
    monkeypatch.setattr(rtx.module, "Runtime", lambda *_: pytest.fail("it was given to TensorRT"))
    with pytest.raises(DferError, match="not the engine that was built for this bundle"):
        stored_engine(opened, "head.fp32.onnx", rtx, "sm86")


def test_what_does_not_build_is_one_line(bundle: Path, rtx: TrtLibrary) -> None:
    opened = Bundle.open(bundle)
    with pytest.raises(DferError, match=r"cannot read x.onnx: .*Failed to parse") as caught:
        build_engine(rtx, b"no graph", "x.onnx", "sm86")
    assert "\n" not in str(caught.value)
    # Turing has no FP32 matrix products in TensorRT-RTX: refused for who names the backend, a row for "auto".
    with pytest.raises(DferError, match=r"cannot build head.fp32.onnx for sm75: .*FP32 GEMM"):
        build_engines(opened, ["head.fp32.onnx"], "tensorrt-rtx", ["sm75"])
    (row,) = build_engines(opened, ["head.fp32.onnx"], "auto", ["sm75"])
    assert "FP32 GEMM" in row.refused and row.size == 0
    assert not list(EngineStore(opened).folder.glob("*.engine"))


def test_a_native_engine_needs_a_gpu_and_says_so(bundle: Path, rtx: TrtLibrary) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDeviceCount()[0] == 0:
        pytest.skip("there is a GPU")
    with pytest.raises(DferError, match="CUDA cannot be used"):
        open_native(Bundle.open(bundle), "head.fp32.onnx", "tensorrt-rtx")
    said: list[str] = []
    assert build_engines(Bundle.open(bundle), ["head.fp32.onnx"], "auto", report=said.append) == []
    assert "CUDA cannot be used" in said[0]


@pytest.mark.parametrize("target", ["sm90", "sm87", "sm72", "", "86", "../sm86"])
def test_other_targets_are_refused_with_the_list(target: str) -> None:
    with pytest.raises(DferError, match=", ".join(TARGETS)):
        check_target(target)


def test_choices_that_contradict_each_other_are_refused(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert build_engines(opened, ["head.fp32.onnx"], "none") == []
    for engine in ("none", "tensorrt"):
        with pytest.raises(DferError, match="targets: only TensorRT-RTX builds for other GPUs"):
            build_engines(opened, ["head.fp32.onnx"], engine, ["sm86"])
    with pytest.raises(DferError, match="engine: 'onnx' is none of auto, tensorrt"):
        build_engines(opened, ["head.fp32.onnx"], "onnx")
