"""Engines: what runs is what was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import BACKENDS, LARGEST_BATCH, compiled, open_engine, ort, present_providers
from dfer.runtime.engines.choice import choose
from dfer.runtime.errors import DferError
from helpers import edit_manifest, graph_bytes, reseal


def test_the_cpu_runs_any_batch_and_says_what_it_is(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    size = opened.manifest.preprocessing.size
    crops = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    with open_engine(opened.read("encoder.fp32.onnx"), "cpu") as engine:
        assert engine.provider == "cpu"
        together = engine.run({"frames": crops})["features"]
        alone = [engine.run({"frames": crop[None]})["features"][0] for crop in crops]
    assert together.shape == (5, opened.manifest.width)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_what_was_closed_does_not_open_again(bundle: Path) -> None:
    with open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "cpu") as engine:
        pass
    with pytest.raises(DferError, match="the engine was closed"):
        engine.run({"features": np.zeros((1, 16, 128), np.float32)})


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_small_graphs_take_one_thread_and_large_ones_what_they_are_given() -> None:
    demo = Bundle.open(DEMO)
    for graph, threads in (("head.fp32.onnx", 1), ("encoder.int8.cpu.onnx", 1), ("encoder.fp32.onnx", 2)):
        with open_engine(demo.read(graph), "cpu", threads=2) as engine:
            (session,) = engine._sessions.values()  # type: ignore[attr-defined]
            assert session.get_session_options().intra_op_num_threads == threads, graph


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_install(bundle: Path) -> None:
    graph = Bundle.open(bundle).read("head.fp32.onnx")
    with pytest.raises(DferError, match="onnxruntime-gpu"):
        open_engine(graph, "cuda")


def test_a_gpu_that_does_not_start_is_an_error_and_not_the_cpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As with onnxruntime-gpu on a machine without a driver: CUDA is listed, but sessions come up on the CPU.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    graph = Bundle.open(bundle).read("head.fp32.onnx")
    with pytest.raises(DferError, match="could not start"):
        open_engine(graph, "cuda")


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(DferError, match="cannot load the graph"):
        open_engine(b"nonsense", "cpu")
    with pytest.raises(DferError, match="unknown"):
        open_engine(b"nonsense", "abacus")


def test_an_error_without_words_is_told_by_its_kind(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(onnxruntime, "InferenceSession", out_of_memory)
    with pytest.raises(DferError, match="ONNX Runtime cannot load the graph: MemoryError"):
        open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "cpu")


def test_openvino_runs_all_of_the_graph_in_the_precision_it_is_written_in(bundle: Path) -> None:
    if "openvino" not in present_providers():
        pytest.skip("OpenVINO is not installed, or this CPU is not Intel's")
    opened = Bundle.open(bundle)
    size = opened.manifest.preprocessing.size
    crops = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    graph = opened.read("encoder.fp32.onnx")
    with open_engine(graph, "openvino") as engine, open_engine(graph, "cpu") as reference:
        assert engine.provider == "openvino"
        found, wanted = (one.run({"frames": crops})["features"] for one in (engine, reference))
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # bfloat16 would be 1e-2 off


def test_openvino_keeps_what_it_compiled_and_runs_one_row_like_several(bundle: Path, own_cache: Path) -> None:
    if "openvino" not in present_providers():
        pytest.skip("OpenVINO is not installed, or this CPU is not Intel's")
    opened = Bundle.open(bundle)
    size = opened.manifest.preprocessing.size
    crops = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    graph = opened.read("encoder.fp32.onnx")

    def features() -> list[np.ndarray]:
        with open_engine(graph, "openvino") as engine:
            return [engine.run({"frames": rows})["features"] for rows in (crops, crops[:1])]

    first = features()
    (folder,) = (own_cache / "openvino").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in folder.glob("*.onnx")} == {"any.onnx", "1.onnx"}  # for any batch, and for one row
    second = features()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    np.testing.assert_allclose(first[0][:1], first[1], atol=1e-4)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)

    (numbers,) = folder.glob("any_*")
    numbers.chmod(0o600)
    for damaged in (numbers.read_bytes()[:-5000], b"", numbers.read_bytes()[:-1] + b"!"):
        numbers.unlink()
        numbers.write_bytes(damaged)
        np.testing.assert_array_equal(features()[0], first[0])
        assert numbers.read_bytes() != damaged  # compiled anew
    (folder / "any.onnx").write_bytes(b"of another version")
    (folder / "any.crc32").write_text(compiled._checksum(folder, "any"))
    np.testing.assert_array_equal(features()[0], first[0])
    assert (folder / "any.onnx").read_bytes() != b"of another version"


def test_where_nothing_can_be_kept_openvino_runs(
    bundle: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "openvino" not in present_providers():
        pytest.skip("OpenVINO is not installed, or this CPU is not Intel's")

    def full(*_: object, **__: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "openvino") as engine:
        assert len(engine.run({"features": np.zeros((1, 16, 128), np.float32)})["probabilities"]) == 1
    assert not list((own_cache / "openvino").rglob("*.onnx"))


def test_without_a_home_nothing_is_kept_and_graphs_are_compiled_anew(homeless: None) -> None:
    assert compiled.folder_for("openvino", "graph") is None


def test_of_what_was_compiled_only_the_last_used_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KEPT", 2)
    first, second = (compiled.folder_for("openvino", name) for name in ("first", "second"))
    assert first is not None and second is not None
    for age, folder in enumerate((second, first), start=1):
        os.utime(folder, (age, age))
    third = compiled.folder_for("openvino", "third")
    assert set((own_cache / "openvino").iterdir()) == {first, third}


def test_a_plug_in_without_a_device_is_no_candidate_and_an_error_where_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO's on a CPU that is not Intel's."""
    pytest.importorskip("onnxruntime_ep_openvino")
    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    assert "openvino" not in present_providers()
    with pytest.raises(DferError, match="openvino finds no CPU of a maker that it runs on; ask for cpu"):
        open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "openvino")


class Devices:
    """OpenVINO's plug-in on a machine with devices of these kinds, which compute what our CPU does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
        self.opened: list[tuple[str, dict[str, dict[str, object]]]] = []
        self.whole: list[str] = []  # of each session, whether all of the graph must run on the device
        opened, whole = self.opened, self.whole

        class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
            def add_session_config_entry(self, name: str, value: str) -> None:
                if name == "session.disable_cpu_ep_fallback":
                    whole.append(value)  # and not passed on: it is our CPU
                else:
                    super().add_session_config_entry(name, value)

            def add_provider_for_devices(self, devices: list[SimpleNamespace], options: dict[str, str]) -> None:
                (one,) = devices
                opened.append((one.device.type.name, json.loads(options["load_config"])))

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
            def __init__(self, graph: bytes, options: Options, **_: object) -> None:
                super().__init__(graph, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return ["OpenVINOExecutionProvider"]

        types = [SimpleNamespace(type=SimpleNamespace(name=kind)) for kind in kinds]
        found = [SimpleNamespace(ep_name="OpenVINOExecutionProvider", ep_metadata={}, device=one) for one in types]
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: found)
        monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(ort, "_register_plugin", lambda _: None)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        monkeypatch.setattr(ort, "folder_for", lambda *_: None)


@pytest.mark.parametrize(
    ("provider", "precision", "kind", "config"),
    [
        ("openvino", "fp16", "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}),
        ("openvino:gpu", "fp32", "GPU", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("openvino:gpu", "fp16", "GPU", {"INFERENCE_PRECISION_HINT": "f16"}),
        ("openvino:npu", "fp16", "NPU", {"INFERENCE_PRECISION_HINT": "f16"}),
        ("openvino:npu", "fp32", "NPU", {"INFERENCE_PRECISION_HINT": "f16"}),
    ],
)
def test_each_device_of_openvino_is_asked_for_by_name_and_told_what_is_for_it(
    provider: str, precision: str, kind: str, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Bundle.open(DEMO).read("encoder.fp32.onnx")
    here = Devices(monkeypatch, "CPU", "GPU", "NPU")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0")  # of the plug-in
    crops = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8)
    with open_engine(graph, provider, 2, precision) as engine:
        together = engine.run({"frames": crops})["features"]
        alone = [engine.run({"frames": crop[None]})["features"][0] for crop in crops]
        assert engine.provider == provider
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert here.opened == [(kind, {kind: config})] * (1 if kind == "NPU" else 2)  # no session for any batch on an NPU
    assert here.whole == ["1"] * len(here.opened)


def test_devices_of_openvino_that_are_not_there_are_no_candidates_and_an_error_where_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Devices(monkeypatch, "CPU", "GPU")
    assert {"openvino", "openvino:gpu"} < set(present_providers()) and "openvino:npu" not in present_providers()
    with pytest.raises(DferError, match="openvino:npu finds no NPU of a maker that it runs on; ask for cpu"):
        open_engine(Bundle.open(DEMO).read("head.fp32.onnx"), "openvino:npu")


def test_a_plug_in_whose_library_does_not_load_is_left_out_by_auto_and_an_error_where_asked_for(
    bundle: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_ep.py").write_text("def get_library_path():\n    return '/nowhere/libbroken.so'\n")
    monkeypatch.syspath_prepend(tmp_path)
    openvino = next(one for one in ort.BACKENDS if one.name == "openvino")
    monkeypatch.setitem(BACKENDS, "openvino", replace(openvino, plugin="broken_ep", keeps_compiled=False))
    with pytest.raises(DferError, match=r"libbroken\.so"):
        open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "openvino", precision="bf16")
    precisions = json.loads((bundle / "manifest.json").read_text())["precisions"]
    precisions["bf16"] = precisions["fp32"]
    edit_manifest(bundle, precisions=precisions, recommended={"cpu": "fp32", "openvino": "bf16"})
    told: list[str] = []
    assert choose(Bundle.open(bundle), warn=told.append) == ("cpu", "fp32")
    assert "provider auto leaves out openvino" in told[-1] and "libbroken.so" in told[-1]


def test_openvino_that_is_not_installed_is_an_error_that_says_what_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DferError, match=r"dfer-edge\[openvino\]"):
        open_engine(Bundle.open(bundle).read("head.fp32.onnx"), "openvino")


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_that_is_not_installed_is_an_error_that_says_what_to_install(provider: str) -> None:
    if provider in present_providers():
        pytest.skip(f"{provider} is installed")
    with pytest.raises(DferError, match=f"{provider} is not installed; pip .*native-{provider}"):
        open_engine(b"", provider)


@pytest.mark.parametrize("provider", [name for name in ("cpu", "openvino") if name in present_providers()])
def test_one_thread_and_two_read_the_same(provider: str) -> None:
    graph = Bundle.open(DEMO).read("encoder.fp32.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
    found = []
    for threads in (1, 2):
        with open_engine(graph, provider, threads) as engine:
            found.append(engine.run({"frames": crops})["features"])
    np.testing.assert_allclose(*found, atol=1e-4)


def test_tensorrt_is_told_the_batches_of_every_input() -> None:
    shapes = ort._profile_shapes(Bundle.open(DEMO).read("encoder.fp32.onnx"), "trt_profile")
    assert shapes == {
        "trt_profile_min_shapes": "frames:1x80x80x3",
        "trt_profile_opt_shapes": "frames:4x80x80x3",
        "trt_profile_max_shapes": "frames:16x80x80x3",
    }


def test_batches_beyond_tensorrt_s_largest_are_run_in_parts() -> None:
    graph = Bundle.open(DEMO).read("encoder.fp32.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (35, 80, 80, 3), dtype=np.uint8)
    assert all(backend.largest == LARGEST_BATCH for backend in ort.BACKENDS if "tensorrt" in backend.name)
    limited = replace(ort.BACKENDS[0], largest=16)
    with open_engine(graph, "cpu") as engine, limited.load(graph) as in_parts:
        found, wanted = (one.run({"frames": crops})["features"] for one in (in_parts, engine))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def endless(folds: bool) -> bytes:
    """An encoder of the demo's shapes that multiplies matrices for minutes: while it is loaded, or when it is run."""
    source = "one" if folds else "pixel"
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=1),
        helper.make_node("ReduceMax", ["pixels"], ["pixel"], keepdims=0),
        helper.make_node("Expand", [source, "sides"], ["product0"]),
        *(helper.make_node("MatMul", [f"product{n}"] * 2, [f"product{n + 1}"]) for n in range(300)),
        helper.make_node("ReduceMax", ["product300"], ["most"], keepdims=0),
        helper.make_node("Add", ["zeros", "most"], ["result"]),
    ]
    sides, one, zeros = np.array([3000, 3000]), np.ones((1, 1), np.float32), np.zeros((1, 128), np.float32)
    numbers = [(sides, "sides"), (one, "one"), (zeros, "zeros")]
    tensors = [numpy_helper.from_array(values, name) for values, name in numbers]
    return graph_bytes(shape=("n", 80, 80, 3), result=128, nodes=nodes, initializer=tensors)


@pytest.mark.parametrize(("folds", "what"), [(True, "to load"), (False, "to run once")])
def test_a_graph_that_never_ends_is_left_after_a_time_limit(bundle: Path, folds: bool, what: str) -> None:
    program = f"""
from dfer.runtime.engines import ort
from dfer.runtime.errors import DferError
from dfer.runtime.recognizer import Recognizer
ort.PATIENCE = 2.0
try:
    Recognizer({str(bundle)!r}, provider="cpu", precision="fp32")
except DferError as error:
    print(error)
"""
    reseal(bundle, "encoder.fp32.onnx", endless(folds))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert f"took longer than 2 s {what}" in done.stdout, done.stderr
    # The thread that still computes may make ONNX Runtime's library abort when the interpreter closes it.
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr
