"""Precisions: each agrees with PyTorch or nothing is written; the manifest says what runs where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from networks import add_outliers, random_crops, small_vit, write_crops
from onnx import TensorProto, numpy_helper

from dfer.calibration.graphs import Graph
from dfer.export import exporting
from dfer.export.command import main as export
from dfer.export.exporting import ExportOptions, export_method
from dfer.export.fp16 import COMFORTABLE, to_half
from dfer.export.graphs import trace_encoder
from dfer.export.latency import Measurement, recommend
from dfer.export.parity import Parity, ReferenceOutputs, measure_parity
from dfer.runtime import Bundle, DferError, Recognizer
from dfer.runtime.engines import BACKENDS, Engine, open_engine
from dfer.train.checkpoints.checkpoint import save_checkpoint
from dfer.train.methods.align_dfer import AlignDfer

bf16 = pytest.mark.skipif(
    not BACKENDS["openvino"].runs("bf16"), reason="no OpenVINO, or this CPU has no BF16 instructions"
)


@pytest.fixture(scope="module")
def method() -> AlignDfer:
    method = small_vit()
    add_outliers(method)
    return method


@pytest.fixture(scope="module")
def encoder(method: AlignDfer) -> bytes:
    return trace_encoder(method)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crops(tmp_path_factory.mktemp("calib") / "crops", random_crops(60))


@pytest.fixture(scope="module")
def exported(method: AlignDfer, crops: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle in three precisions, written by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("precision")
    save_checkpoint(method, folder / "vit.pt", {})
    arguments = ["--ckpt", folder / "vit.pt", "--fp16", "--int8", "--calib", crops, "--calib-min", "60"]
    result = CliRunner().invoke(export, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "vit.dfer", result.output


def flipped(graph: bytes, layer: str) -> bytes:
    """The graph with the sign of a layer's weights turned."""
    model = onnx.load_model_from_string(graph)
    (weight,) = [node.input[1] for node in model.graph.node if node.name == layer]
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), weight))
    data: bytes = model.SerializeToString()
    return data


def test_every_precision_is_in_the_manifest_with_its_figures(exported: tuple[Path, str]) -> None:
    bundle = Bundle.open(exported[0])
    precisions: Any = bundle.manifest.precisions
    assert list(precisions) == ["fp32", "fp16", "int8"]
    assert precisions["fp32"]["parity"]["cosine"] >= 0.9999
    assert precisions["fp16"]["parity"]["cosine"] >= 0.999
    assert precisions["int8"]["parity"]["cosine"] >= 0.99
    assert precisions["int8"]["parity"]["top1"] >= 0.99
    for entry in precisions.values():
        assert entry["gate"] == "default"
        assert set(entry["providers"]["cpu"]["latency_ms"]) == {"1", "8"}
    assert bundle.manifest.recommended["cpu"] in precisions
    assert [name for name in bundle.digests if name.startswith("head")] == ["head.fp32.onnx"]
    assert precisions["int8"]["files"]["encoder"]["default"] != precisions["int8"]["files"]["encoder"]["cpu"]
    assert sorted(path.name for path in exported[0].parent.iterdir()) == [
        "vit.dfer",
        "vit.int8.png",
        "vit.pt",
        "vit.ranges.json",
    ]


def test_the_command_prints_what_each_precision_is_worth(exported: tuple[Path, str]) -> None:
    for words in ("fp16", "int8", "with ties", "recommended", "resblocks", "MB", "batch 8"):
        assert words in exported[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_runtime_runs_what_is_asked_for(exported: tuple[Path, str], method: AlignDfer, precision: str) -> None:
    frames = random_crops(4, seed=5)
    with torch.inference_mode():
        wanted = method.encode_frames(torch.from_numpy(frames)).numpy()
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
    assert "are for bundles" in " ".join(result.output.split())


def test_a_precision_that_is_not_there_is_refused(exported: tuple[Path, str]) -> None:
    with pytest.raises(DferError, match="has no int4 graphs; it has fp32, fp16, int8"):
        Recognizer(exported[0], precision="int4")


def test_half_precision_is_half_the_size_and_spares_what_it_would_break(encoder: bytes) -> None:
    half = to_half(encoder, random_crops(8))
    model = onnx.load_model_from_string(half)
    onnx.checker.check_model(model, full_check=True)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert len(half) < 0.6 * len(encoder)
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.UINT8, TensorProto.FLOAT]
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    singles = {"LayerNormalization", "Softmax", "ReduceL2"}
    for node in model.graph.node:
        if node.op_type in singles:
            assert kinds[node.output[0]] == TensorProto.FLOAT
    assert {kinds[layer.output] for layer in Graph(half).layers()[1:-1]} == {TensorProto.FLOAT16}


def test_what_is_too_large_for_half_precision_stays_in_single() -> None:
    method = small_vit()
    tower: Any = method.clip_model.visual
    with torch.no_grad():
        tower.transformer.resblocks[1].mlp.c_fc.weight *= 100 * COMFORTABLE
        tower.transformer.resblocks[1].mlp.c_proj.weight /= 100 * COMFORTABLE
    encoder, frames = trace_encoder(method), random_crops(8)
    half = to_half(encoder, frames)
    with open_engine(encoder, "cpu") as single, open_engine(half, "cpu") as halved:
        wanted, found = (engine.run({"frames": frames})["features"] for engine in (single, halved))
    assert (wanted * found).sum(axis=1).min() > 0.999
    sizes = {tensor.name: tensor.data_type for tensor in onnx.load_model_from_string(half).graph.initializer}
    assert TensorProto.FLOAT16 in sizes.values()


@pytest.mark.parametrize("layer", ["resblocks.1.mlp.c_fc/MatMul", "conv1.product/MatMul"])
def test_a_poisoned_export_names_the_layer_and_leaves_the_old_bundle(
    method: AlignDfer, encoder: bytes, layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.dfer"
    export_method(method, out, {})
    before = (out / "manifest.json").read_bytes()
    (full,) = [node.name for node in onnx.load_model_from_string(encoder).graph.node if node.name.endswith(layer)]
    monkeypatch.setattr(exporting, "trace_encoder", lambda _: flipped(encoder, full))
    with pytest.raises(DferError, match=rf"fp32 export refused.*deviate most are {full.rpartition('/')[0]} "):
        export_method(method, out, {})
    assert (out / "manifest.json").read_bytes() == before
    Bundle.open(out)


def test_a_bad_head_is_called_the_head(method: AlignDfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace: Callable[..., bytes] = exporting.trace_head
    monkeypatch.setattr(exporting, "trace_head", lambda model, matrix: trace(model, -matrix))
    with pytest.raises(DferError, match="it is the head"):
        export_method(method, tmp_path / "x.dfer", {})
    assert not (tmp_path / "x.dfer").exists()


def test_the_last_block_works_on_the_class_token_alone(method: AlignDfer, encoder: bytes) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(encoder))
    types = {value.name: value.type.tensor_type for value in model.graph.value_info}
    tokens = {
        node.name.split("/")[0].split("resblocks.")[1]: types[node.output[0]].shape.dim[1].dim_value
        for node in model.graph.node
        if node.name.endswith("mlp.c_fc/MatMul")
    }
    *whole, last = (tokens[name] for name in sorted(tokens))
    assert last == 1 < min(whole)
    frames = random_crops(5)
    with torch.inference_mode(), open_engine(encoder, "cpu") as engine:
        expected = method.encode_frames(torch.from_numpy(frames)).numpy()
        np.testing.assert_allclose(engine.run({"frames": frames})["features"], expected, atol=1e-5)
    assert type(method.clip_model.visual.transformer.resblocks[-1]).__name__ == "ResidualAttentionBlock"  # put back


def test_a_bad_half_is_refused_and_an_open_gate_is_written_down(
    method: AlignDfer, encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "clip_model.visual.transformer.resblocks.2.mlp.c_proj/MatMul"
    monkeypatch.setattr(exporting, "to_half", lambda graph, frames: flipped(to_half(graph, frames), layer))
    with pytest.raises(DferError, match=r"fp16 export refused.*resblocks\.2\.mlp\.c_proj"):
        export_method(method, tmp_path / "x.dfer", {}, options=ExportOptions(fp16=True))
    bundle = export_method(method, tmp_path / "x.dfer", {}, options=ExportOptions(fp16=True, gate="off")).bundle
    assert bundle.manifest.precisions["fp16"]["gate"] == "off"


def test_a_graph_that_does_not_run_is_an_error_in_one_line(method: AlignDfer, encoder: bytes) -> None:
    model = onnx.load_model_from_string(encoder)
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.op_type = "ConvTranspose"
    with pytest.raises(DferError, match="ONNX Runtime cannot") as caught:
        measure_parity(method, model.SerializeToString(), encoder, random_crops(16)[None])
    assert "\n" not in str(caught.value)


def test_int8_without_faces_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    result = CliRunner().invoke(export, ["--ckpt", str(tmp_path / "x.pt"), "--int8"])
    assert result.exit_code == 1
    assert "--int8 needs --calib" in result.output


@bf16
def test_bf16_is_compared_timed_and_run_where_it_is_asked_for(method: AlignDfer, tmp_path: Path) -> None:
    bundle = export_method(method, tmp_path / "x.dfer", {}, options=ExportOptions(bf16=True)).bundle
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
    method: AlignDfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers import edit_manifest

    export_method(method, tmp_path / "x.dfer", {}, options=ExportOptions(bf16=True))
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
    with pytest.raises(DferError, match="--bf16 cannot be compared with PyTorch here"):
        export_method(method, tmp_path / "y.dfer", {}, options=ExportOptions(bf16=True))


def test_bf16_on_a_provider_that_does_not_offer_it_is_refused(encoder: bytes) -> None:
    with pytest.raises(DferError, match="cpu does not run bf16 here"):
        open_engine(encoder, "cpu", precision="bf16")


def test_bf16_may_move_probabilities_eight_times_as_far_as_fp16_but_not_the_class() -> None:
    assert Parity(0.9995, 0.05, 1.0, 1.0, 64).passes("bf16")
    assert not Parity(0.9995, 0.05, 1.0, 1.0, 64).passes("fp16")
    for bad in (Parity(0.998, 0.0, 1.0, 1.0, 64), Parity(1.0, 0.09, 1.0, 1.0, 64), Parity(1.0, 0.0, 0.98, 0.9, 64)):
        with pytest.raises(DferError, match="bf16 export refused"):
            bad.check("bf16")


def test_ties_are_forgiven_and_the_exact_figure_is_told_beside(method: AlignDfer) -> None:
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
