"""Precisions: each agrees with PyTorch or nothing is written; the manifest says what runs where."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from networks import SIZE, add_outliers, random_crops, small_vit, write_crops
from onnx import TensorProto

from dfer.calibration.faces import FaceClips
from dfer.calibration.graphs import Graph, largest
from dfer.export import exporting
from dfer.export.command import _latency_table
from dfer.export.command import main as export
from dfer.export.deviations import find_deviations
from dfer.export.exporting import export_method, export_traced
from dfer.export.fp16 import RANGE_FRAMES, to_half
from dfer.export.graphs import TracedMethod
from dfer.export.latency import Measurement, recommend
from dfer.export.options import ExportOptions
from dfer.export.parity import Parity, ReferenceOutputs
from dfer.runtime import EXPRESSIONS, Bundle, DferError, Recognizer
from dfer.runtime.engines import BACKENDS, Backend, Engine, open_engine
from dfer.runtime.errors import ParameterError
from dfer.train.checkpoints.checkpoint import save_checkpoint
from dfer.train.data import CLIP_SECONDS
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer

bf16 = pytest.mark.skipif(
    not BACKENDS["openvino"].runs("bf16"), reason="no OpenVINO, or this CPU has no BF16 instructions"
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of labelled crops."""
    folder = tmp_path_factory.mktemp("faces")
    write_crops(folder / "images", random_crops(60))
    rows = [f"{index:04}.png,{EXPRESSIONS[index % 7]}" for index in range(60)]
    (folder / "faces.csv").write_text("\n".join(["image,label", *rows]))
    return folder / "faces.csv"


@pytest.fixture(scope="module")
def exported(vit: AlignDfer, traced: TracedMethod, faces: Path, tmp_path_factory: Any) -> tuple[Path, str]:
    """A bundle in three precisions, written by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("precision")
    save_checkpoint(vit, folder / "vit.pt", {CLIP_SECONDS: 0.9})
    arguments = ["--ckpt", folder / "vit.pt", "--fp16", "--int8", "--calib", faces, "--calib-min", "60"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "trace_method", lambda *_: traced)  # of the same weights
        result = CliRunner().invoke(export, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "vit.dfer", result.output


def write(method: Method, traced: TracedMethod, out: Path, options: ExportOptions | None = None) -> Bundle:
    """The bundle of a traced model, without calibration faces."""
    return export_traced(method, traced, None, out, {}, options or ExportOptions()).bundle


def scaled(graph: bytes, name: str, factor: float = -1.0) -> bytes:
    """The graph with the weights of a layer, or what an Add adds, times a factor."""
    edited = Graph(graph)
    (node,) = [node for node in edited.nodes if node.name == name or node.name.endswith(f".{name}")]
    (constant,) = [name for name in node.input if name in edited.constants]
    values = edited.constant(constant)
    edited.add_constant(constant, (factor * values).astype(values.dtype))
    return edited.bytes()


def weight_types(graph: bytes) -> dict[str, int]:
    """The type of each layer's weights."""
    read = Graph(graph)
    return {layer.name: read.constants[layer.weight].data_type for layer in read.layers()}


def test_every_precision_is_in_the_manifest_with_its_figures(exported: tuple[Path, str]) -> None:
    bundle = Bundle.open(exported[0])
    precisions: Any = bundle.manifest.precisions
    assert list(precisions) == ["fp32", "fp16", "int8"] and bundle.manifest.recommended["cpu"] in precisions
    assert (bundle.manifest.seconds, "are assumed" in exported[1]) == (0.9, False)  # as the clips it learned from
    assert precisions["fp32"]["parity"]["cosine"] >= 0.9999
    assert precisions["fp16"]["parity"]["cosine"] >= 0.999
    assert precisions["int8"]["parity"]["cosine"] >= 0.99
    assert precisions["int8"]["parity"]["top1"] >= 0.99
    for entry in precisions.values():
        assert entry["gate"] == "default"
        assert 0 <= entry["parity"]["uar"] <= 1 and 0 <= entry["parity"]["war"] <= 1
        assert set(entry["providers"]["cpu"]["latency_ms"]) == {"1", "8"}
        assert entry["providers"]["cpu"]["passes"] is True
    assert precisions["int8"]["files"]["heads"] == {"cpu": "head.int8.cpu.onnx", "openvino": "head.int8.onnx"}
    assert {bundle.manifest.graphs(name, "cpu")[1] for name in ("fp32", "fp16")} == {"head.fp32.onnx"}
    assert bundle.manifest.graphs("int8", "cpu")[1] == "head.int8.cpu.onnx"
    assert bundle.manifest.graphs("int8", "tensorrt")[1] == "head.fp32.onnx"
    assert exporting._without_classes(precisions["int8"])["files"].keys() == {"encoder", "head"}
    assert precisions["int8"]["files"]["encoder"]["default"] != precisions["int8"]["files"]["encoder"]["cpu"]
    assert sorted(path.name for path in exported[0].parent.iterdir()) == [
        "vit.dfer",
        "vit.int8.png",
        "vit.pt",
        "vit.ranges.json",
    ]


def test_the_command_prints_what_each_precision_is_worth(exported: tuple[Path, str]) -> None:
    for words in ("fp16", "int8", "with ties", "WAR", "UAR", "recommended", "resblocks", "MB", "batch 8"):
        assert words in exported[1]


def test_too_few_faces_are_refused_with_the_options_name(exported: tuple[Path, str], faces: Path) -> None:
    arguments = ["--ckpt", exported[0].with_suffix(".pt"), "--int8", "--calib", faces]
    result = CliRunner().invoke(export, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "--calib-min: 60 frames with a face in" in result.output and "500 are needed" in result.output


@pytest.mark.long
def test_a_bundle_for_the_cpu_alone_is_smaller(exported: tuple[Path, str], faces: Path, tmp_path: Path) -> None:
    arguments = ["--ckpt", exported[0].with_suffix(".pt"), "--out", tmp_path / "cpu.dfer", "--window", 1.5, "--fps", 10]
    arguments += ["--int8", "--int8-for", "cpu", "--calib", faces, "--calib-min", "60"]
    result = CliRunner().invoke(export, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "cpu.dfer").manifest
    assert list(manifest.precisions["int8"]["files"]["encoder"]) == ["cpu"]
    assert not list((tmp_path / "cpu.dfer").glob("*.int8.onnx"))
    assert (manifest.seconds, manifest.fps) == (1.5, 10)
    with Recognizer(tmp_path / "cpu.dfer", provider="cpu", precision="int8") as recognizer:
        assert (recognizer.window, recognizer.fps) == (1.5, 10)
    with pytest.raises(ParameterError, match="int8_for: 'gpu' is none of all, cpu"):
        ExportOptions(int8_for="gpu")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_runtime_runs_what_is_asked_for(exported: tuple[Path, str], vit: AlignDfer, precision: str) -> None:
    frames = random_crops(4, seed=5)
    with torch.inference_mode():
        wanted = vit.encode_frames(torch.from_numpy(frames)).numpy()
    with Recognizer(exported[0], provider="cpu", precision=precision) as recognizer:
        assert recognizer.precision == precision
        found = recognizer.encode(frames)
        assert found.dtype == np.float32
        assert (found * wanted).sum(axis=1).min() >= 0.99
    with Recognizer(exported[0], provider="cpu") as recognizer:
        assert recognizer.precision == recognizer.bundle.manifest.recommended["cpu"]


def test_every_precision_can_be_scored_and_a_checkpoint_has_none(exported: tuple[Path, str]) -> None:
    from dfer.train.cli.eval import main as evaluate

    options = ["--identities", "1", "--workers", "1", "--precision", "int8"]
    result = CliRunner().invoke(evaluate, [str(exported[0]), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "vit.dfer (int8 on cpu)" in " ".join(result.output.split()) and "clips 7" in result.output
    result = CliRunner().invoke(evaluate, [str(exported[0].with_suffix(".pt")), *options])
    assert result.exit_code == 1
    assert "only a bundle has providers and precisions" in " ".join(result.output.split())


def test_a_precision_that_is_not_there_is_refused(exported: tuple[Path, str]) -> None:
    with pytest.raises(DferError, match="has no int4 graphs; it has fp32, fp16, int8"):
        Recognizer(exported[0], precision="int4")


def test_half_precision_is_half_the_size_and_spares_what_it_would_break(traced: TracedMethod) -> None:
    half = to_half(traced.encoder.onnx, random_crops(8))
    model = onnx.load_model_from_string(half)
    onnx.checker.check_model(model, full_check=True)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert len(half) < 0.6 * len(traced.encoder.onnx)
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.UINT8, TensorProto.FLOAT]
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    singles = {"LayerNormalization", "Softmax", "ReduceL2"}
    for node in model.graph.node:
        if node.op_type in singles:
            assert kinds[node.output[0]] == TensorProto.FLOAT
    assert {kinds[layer.output] for layer in Graph(half).layers()[1:-1]} == {TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def contrasts(traced: TracedMethod) -> tuple[AlignDfer, TracedMethod]:
    """A model whose patch embedding is too large for FP16 on frames with contrast, and small on even grey ones."""
    method = small_vit()
    add_outliers(method)
    visual: Any = method.clip_model.visual
    with torch.no_grad():
        visual.conv1.weight *= 3e5
    encoder = scaled(scaled(traced.encoder.onnx, "conv1.product/MatMul", 3e5), "conv1.product/Add", 3e5)
    return method, replace(traced, encoder=replace(traced.encoder, onnx=encoder))


def test_what_is_too_large_for_half_precision_stays_in_single(contrasts: tuple[AlignDfer, TracedMethod]) -> None:
    encoder, frames = contrasts[1].encoder.onnx, random_crops(8)
    assert max(largest(encoder, frames).values()) > float(np.finfo(np.float16).max)
    half = to_half(encoder, frames)
    with open_engine(encoder, "cpu") as single, open_engine(half, "cpu") as halved:
        wanted, found = (engine.run({"frames": frames})["features"] for engine in (single, halved))
    assert (wanted * found).sum(axis=1).min() > 0.999
    assert weight_types(half)["clip_model.visual.conv1.product/MatMul"] == TensorProto.FLOAT
    assert TensorProto.FLOAT16 in weight_types(half).values()


def test_ranges_for_fp16_are_measured_on_all_videos(contrasts: tuple[AlignDfer, TracedMethod], tmp_path: Path) -> None:
    """The first video, which has more frames than are measured, is of an even grey."""
    grey, vivid = np.full((RANGE_FRAMES, SIZE, SIZE, 3), 128, np.uint8), random_crops(RANGE_FRAMES // 4)
    measured = FaceClips(np.concatenate([grey, vivid]), (len(grey), len(vivid)), (None, None))
    held_out = FaceClips(vivid, (len(vivid),), (None,))
    out, options = tmp_path / "x.dfer", ExportOptions(fp16=True)
    bundle = export_traced(*contrasts, (measured, held_out), out, {}, options).bundle
    types = weight_types(bundle.read("encoder.fp16.onnx"))
    assert types["clip_model.visual.conv1.product/MatMul"] == TensorProto.FLOAT


@pytest.mark.parametrize("layer", ["resblocks.1.mlp.c_fc/MatMul", "conv1.product/MatMul"])
def test_a_bad_encoder_is_refused_by_its_layer_and_the_old_bundle_stays(
    vit: AlignDfer, traced: TracedMethod, layer: str, tmp_path: Path
) -> None:
    out = tmp_path / "x.dfer"
    write(vit, traced, out)
    before = (out / "manifest.json").read_bytes()
    bad = replace(traced.encoder, onnx=scaled(traced.encoder.onnx, layer))
    module = layer.rpartition("/")[0]
    with pytest.raises(DferError, match=rf"fp32 export refused.*deviate most are \S*{module} ") as caught:
        write(vit, replace(traced, encoder=bad), out)
    assert "it differs from the PyTorch model" in str(caught.value)
    assert (out / "manifest.json").read_bytes() == before
    Bundle.open(out).verify()


def test_layers_that_deviate_are_found_on_all_videos(traced: TracedMethod) -> None:
    """The first frames are of an even grey, on which the weights of the patches do not matter."""
    frames = np.concatenate([np.full((8, SIZE, SIZE, 3), 128, np.uint8), random_crops(8)])
    worst, *_ = find_deviations(traced.encoder, scaled(traced.encoder.onnx, "conv1.product/MatMul"), frames)
    assert worst.layer.endswith("conv1.product") and worst.error > 0.1


def test_a_bad_head_is_called_the_head(vit: AlignDfer, traced: TracedMethod, tmp_path: Path) -> None:
    bad = replace(traced, head=scaled(traced.head, Graph(traced.head).layers()[-1].name))
    with pytest.raises(DferError, match="it is the head"):
        write(vit, bad, tmp_path / "x.dfer")
    assert not (tmp_path / "x.dfer").exists()


def test_a_bad_half_is_refused_and_an_open_gate_is_written_down(
    vit: AlignDfer, traced: TracedMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "resblocks.1.mlp.c_proj/MatMul"
    monkeypatch.setattr(exporting, "to_half", lambda graph, frames: scaled(to_half(graph, frames), layer))
    with pytest.raises(DferError, match=r"fp16 export refused.*resblocks\.1\.mlp\.c_proj"):
        write(vit, traced, tmp_path / "x.dfer", ExportOptions(fp16=True))
    result = export_traced(vit, traced, None, tmp_path / "x.dfer", {}, ExportOptions(fp16=True, gate="off"))
    assert result.bundle.manifest.precisions["fp16"]["gate"] == "off"
    (passes,) = [column for column in _latency_table(result, "off").columns if column.header == "passes its gate"]
    assert set(passes.cells) == {"–"}


@dataclass(frozen=True)
class Broken(Backend):
    """As one whose driver is missing."""

    def is_present(self) -> bool:
        return True

    def load(self, graph: bytes, precision: str = "fp32", threads: int | None = None) -> Engine:
        raise ParameterError("provider", "there is no driver")


def test_a_backend_that_could_not_be_measured_is_named_with_the_precisions_that_it_offers(
    vit: AlignDfer, traced: TracedMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "broken", Broken("broken", ("fp16", "int8"), ""))
    monkeypatch.setitem(BACKENDS, "native", Broken("native", ("fp16",), "", measured_as="broken"))
    result = export_traced(vit, traced, None, tmp_path / "x.dfer", {}, ExportOptions(fp16=True))
    assert result.warnings == ("broken could not be measured in fp16: there is no driver",)
    assert "broken" not in result.bundle.manifest.recommended


def test_a_graph_that_does_not_run_is_an_error_in_one_line(
    vit: AlignDfer, traced: TracedMethod, tmp_path: Path
) -> None:
    model = onnx.load_model_from_string(traced.encoder.onnx)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "ConvTranspose"
    with pytest.raises(DferError, match="ONNX Runtime cannot") as caught:
        write(vit, replace(traced, encoder=replace(traced.encoder, onnx=model.SerializeToString())), tmp_path / "x")
    assert "\n" not in str(caught.value)


@bf16
def test_bf16_is_compared_timed_and_run_where_it_is_asked_for(
    vit: AlignDfer, traced: TracedMethod, tmp_path: Path
) -> None:
    bundle = write(vit, traced, tmp_path / "x.dfer", ExportOptions(bf16=True))
    entry: Any = bundle.manifest.precisions["bf16"]
    assert entry["files"]["encoder"] == {"openvino": "encoder.fp32.onnx"}  # no file of its own
    assert list(entry["providers"]) == ["openvino"] and set(entry["providers"]["openvino"]["latency_ms"]) == {"1", "8"}
    assert 0.999 <= entry["parity"]["cosine"] < 0.999999
    frames = random_crops(4, seed=5)
    with (
        Recognizer(bundle.path, provider="openvino", precision="fp32") as single,
        Recognizer(bundle.path, provider="openvino", precision="bf16") as half,
    ):
        assert half.precision == "bf16"
        found, wanted = half.encode(frames), single.encode(frames)
    assert 1e-4 < np.abs(found - wanted).max() < 0.05  # it really is computed in fewer bits
    with pytest.raises(DferError, match="bf16 of this bundle is for provider openvino, not for cpu"):
        Recognizer(bundle.path, provider="cpu", precision="bf16")


@bf16
def test_a_recommendation_of_bf16_is_not_followed_where_the_cpu_has_none(
    vit: AlignDfer, traced: TracedMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers import edit_manifest

    write(vit, traced, tmp_path / "x.dfer", ExportOptions(bf16=True))
    edit_manifest(tmp_path / "x.dfer", recommended={"openvino": "bf16"})
    with Recognizer(tmp_path / "x.dfer", provider="openvino") as recognizer:
        assert recognizer.precision == "bf16"
    monkeypatch.setitem(BACKENDS, "openvino", replace(BACKENDS["openvino"], precisions=("fp32",)))
    said: list[str] = []
    with Recognizer(tmp_path / "x.dfer", provider="openvino", warn=said.append) as recognizer:
        assert recognizer.precision == "fp32"
    assert "openvino does not run bf16 here" in said[0]
    with pytest.raises(DferError, match="openvino does not run bf16 here"):
        Recognizer(tmp_path / "x.dfer", provider="openvino", precision="bf16")


def test_bf16_is_refused_where_it_cannot_be_compared(
    vit: AlignDfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "openvino", replace(BACKENDS["openvino"], precisions=("fp32",)))
    with pytest.raises(DferError, match=r"^bf16: cannot be compared with PyTorch here"):
        export_method(vit, tmp_path / "y.dfer", {}, ExportOptions(bf16=True))


def test_bf16_on_a_provider_that_does_not_offer_it_is_refused(traced: TracedMethod) -> None:
    with pytest.raises(DferError, match="cpu does not run bf16 here"):
        open_engine(traced.encoder.onnx, "cpu", precision="bf16")


def test_bf16_may_move_probabilities_eight_times_as_far_as_fp16_but_not_the_class() -> None:
    assert Parity(0.9995, 0.05, 1.0, 1.0, 64).passes("bf16")
    assert not Parity(0.9995, 0.05, 1.0, 1.0, 64).passes("fp16")
    for bad in (Parity(0.998, 0.0, 1.0, 1.0, 64), Parity(1.0, 0.09, 1.0, 1.0, 64), Parity(1.0, 0.0, 0.98, 0.9, 64)):
        with pytest.raises(DferError, match="bf16 export refused"):
            bad.check("bf16")


def test_ties_count_as_agreement_and_the_exact_figure_is_beside() -> None:
    frames = random_crops(3)
    sure, torn = [0.9, 0.1], [0.51, 0.49]
    probabilities = np.array([torn, sure, sure], np.float32)

    class Says(Engine):
        """An engine that answers what it is told to, for the comparison under test."""

        provider = "cpu"

        def __init__(self, name: str, answer: np.ndarray) -> None:
            self.answer = {name: answer.astype(np.float32)}

        def run(self, inputs: object) -> dict[str, np.ndarray]:
            return self.answer

        def close(self) -> None: ...

    reference = ReferenceOutputs(
        frames, np.arange(3)[:, None], np.eye(3, dtype=np.float32), probabilities, np.full(3, -1), ("sad", "glad")
    )
    features = Says("features", np.eye(3))
    tie = reference.compare(features, Says("probabilities", np.array([torn[::-1], sure, sure])))
    assert (tie.top1, round(tie.exact_top1, 3)) == (1.0, 0.667)
    assert tie.to_json()["exact_top1"] < tie.to_json()["top1"]
    wrong = reference.compare(features, Says("probabilities", np.array([torn, sure[::-1], sure])))
    assert wrong.top1 == wrong.exact_top1 < 0.99


def test_the_fastest_that_passes_is_recommended() -> None:
    good, bad = Parity(1.0, 0.0, 1.0, 1.0, 1), Parity(0.5, 0.0, 1.0, 1.0, 1)
    slow, fast = {1: 9.0, 8: 9.0}, {1: 3.0, 8: 3.0}
    found = {
        "cpu": {"fp32": Measurement(good, slow), "int8": Measurement(good, fast)},
        "cuda": {"fp32": Measurement(good, slow), "int8": Measurement(bad, fast)},
        "openvino": {"fp32": Measurement(bad, slow)},
    }
    assert recommend(found, "default") == {"cpu": "int8", "cuda": "fp32"}
    assert recommend(found, "off") == {}


def test_a_recommendation_of_what_is_not_there_is_refused(exported: tuple[Path, str], tmp_path: Path) -> None:
    from helpers import edit_manifest

    copy = tmp_path / "copy.dfer"
    copy.mkdir()
    for file in exported[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = json.loads((copy / "manifest.json").read_text())
    edit_manifest(copy, recommended={"cpu": "int4"})
    with pytest.raises(DferError, match="recommends int4 for cpu"):
        Bundle.open(copy)
    content["precisions"]["int8"]["files"]["encoder"]["cpu"] = "absent.onnx"
    edit_manifest(copy, recommended={}, precisions=content["precisions"])
    with pytest.raises(DferError, match=r"lists no absent\.onnx"):
        Bundle.open(copy)
    content = json.loads((exported[0] / "manifest.json").read_text())
    content["precisions"]["int8"]["files"]["heads"]["cpu"] = "encoder.fp32.onnx"
    edit_manifest(copy, recommended={}, precisions=content["precisions"])
    with Recognizer(exported[0], provider="cpu", precision="int8"), pytest.raises(DferError, match="not a graph that"):
        Recognizer(copy, provider="cpu", precision="int8")
