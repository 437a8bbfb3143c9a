"""Export: graphs that agree with PyTorch, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from dfer.export import ExportOptions
from dfer.export.command import main as export
from dfer.export.exporting import ExportResult
from dfer.export.options import trained_window
from dfer.export.parity import Parity
from dfer.runtime import Bundle, DferError, Recognizer
from dfer.runtime.bundle import DEMO
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.data import CLIP_SECONDS
from helpers import Pipeline


def test_the_bundle_says_where_it_came_from_and_what_was_measured(pipeline: Pipeline) -> None:
    manifest = Bundle.open(pipeline.bundle).manifest
    assert (manifest.method, manifest.window, manifest.width) == ("align-dfer", 16, 128)
    assert manifest.scale == pytest.approx(100 / manifest.temperature)
    assert manifest.provenance["training"]["calibration"]["confidence"]["temperature"] == manifest.temperature != 1
    assert manifest.preprocessing.grey
    parity = manifest.precisions["fp32"]["parity"]
    assert parity["cosine"] >= 0.9999
    assert parity["max_delta"] <= 1e-3
    assert parity["frames"] == 64
    assert manifest.provenance["training"]["plan"]["epochs"] == [6, 6, 6]
    assert "wrote" in pipeline.printed and "warning" not in pipeline.printed


def test_the_runtime_computes_what_torch_computes(pipeline: Pipeline) -> None:
    method, _ = load_checkpoint(pipeline.checkpoint)
    crops = np.random.default_rng(1).integers(0, 256, (16, 80, 80, 3), dtype=np.uint8)
    with torch.inference_mode(), Recognizer(pipeline.bundle) as recognizer:
        features = method.encode_frames(torch.from_numpy(crops))
        found = recognizer.encode(crops)
        np.testing.assert_allclose(found, features.numpy(), atol=1e-5)
        wanted = method.logits(features[None]).softmax(dim=-1).numpy()
        np.testing.assert_allclose(recognizer.classify(found[None]), wanted, atol=1e-4)
        np.testing.assert_allclose(recognizer.bundle.class_matrix(), method.class_matrix().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "head.fp32.onnx"])
def test_graphs_are_plain_onnx(pipeline: Pipeline, name: str) -> None:
    model = onnx.load_from_string((pipeline.bundle / name).read_bytes())
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # the batch is free
    assert not any(weight.external_data for weight in model.graph.initializer)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LayerNormalization") == (2 if name.startswith("head") else 0)
    traces = (str(Path(__file__).parents[2]).encode(), b"graphs.py")  # of the machine it was made on
    assert not any(trace in model.SerializeToString() for trace in traces)


@pytest.mark.parametrize(("cosine", "delta"), [(0.9998, 0.0), (1.0, 0.002), (float("nan"), 0.0), (1.0, float("nan"))])
def test_the_gate_refuses_what_is_off_or_not_a_number(cosine: float, delta: float) -> None:
    with pytest.raises(DferError, match="refused"):
        Parity(cosine, delta, 1.0, 1.0, 1).check("fp32")


def test_bad_checkpoints_and_places_give_one_line_and_nothing_else(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    calls = [
        (["--ckpt", tmp_path / "absent.pt"], "no such file"),
        (["--ckpt", tmp_path / "text.pt"], "text.pt"),
        (["--ckpt", pipeline.checkpoint, "--out", tmp_path / "no" / "x.dfer"], "--out: folder"),
        (["--ckpt", pipeline.checkpoint, "--out", "."], "--out: . is no name; name the bundle"),
        (["--ckpt", pipeline.checkpoint, "--out="], "--out: . is no name"),
        (["--ckpt", pipeline.checkpoint, "--out", tmp_path], f"--out: {tmp_path} exists and is not a bundle"),
        (["--ckpt", pipeline.checkpoint, "--out", tmp_path / "text.pt"], "text.pt exists and is not a bundle"),
        (["--ckpt", ""], "--ckpt: is empty"),
        (["--ckpt", DEMO], f"--ckpt: {DEMO} is a bundle already; run it: dfer-run"),
        (["--ckpt", tmp_path], f"--ckpt: {tmp_path} is a folder; name a file"),
    ]
    for arguments, words in calls:
        result = CliRunner().invoke(export, [str(argument) for argument in arguments])
        assert result.exit_code == 1, result.output
        assert words in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


@pytest.mark.parametrize(
    ("training", "window"),
    [
        ({CLIP_SECONDS: 0.9, "span": 1.0}, 0.9),
        ({CLIP_SECONDS: 2.0, "span": 0.6}, 1.6),
        ({CLIP_SECONDS: 0.1}, 0.5),
        ({CLIP_SECONDS: 3600.0}, 4.0),
        ({CLIP_SECONDS: "2"}, None),
        ({"span": 1.0}, None),
        (None, None),
    ],
)
def test_the_window_is_what_training_read_within_bounds(training: object, window: float | None) -> None:
    assert trained_window(training) == window


def test_options_that_cannot_be_are_refused_by_their_names() -> None:
    with pytest.raises(DferError, match=r"^faces: INT8 needs videos or face crops"):
        ExportOptions(int8=True)
    with pytest.raises(DferError, match=r"^gate: 'lax' is none of default, strict, off"):
        ExportOptions(gate="lax")


def test_options_reach_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def export_checkpoint(*arguments: Any) -> None:
        given.extend(arguments)
        raise DferError("enough")

    monkeypatch.setattr("dfer.export.exporting.export_checkpoint", export_checkpoint)
    (checkpoint := tmp_path / "x.pt").touch()
    call = ["--ckpt", checkpoint, "--out", tmp_path / "y.dfer", "--gate", "strict", "--fp16", "--bf16", "--int8"]
    call += ["--int8-for", "cpu", "--calib", tmp_path, "--calib-min", 7, "--window", 1.5, "--fps", 10]
    call += ["--describe", tmp_path / "texts.json"]
    result = CliRunner().invoke(export, [str(argument) for argument in call])
    assert "enough" in result.output
    options = ExportOptions(True, True, True, "cpu", tmp_path, minimum=7, gate="strict", window=1.5, fps=10)
    assert given[:3] == [checkpoint, tmp_path / "y.dfer", options]
    assert given[-1] == tmp_path / "texts.json"


def test_commands_to_try_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = shutil.copytree(DEMO, tmp_path / "my bundles" / "b 1.dfer")
    refused = CliRunner().invoke(export, ["--ckpt", str(bundle)])
    assert f"run it: dfer-run clip.mp4 --bundle '{bundle}'" in refused.output

    (tmp_path / "x.pt").touch()
    result = ExportResult(Bundle.open(bundle), {}, {})
    monkeypatch.setattr("dfer.export.exporting.export_checkpoint", lambda *_: result)
    made = CliRunner().invoke(export, ["--ckpt", str(tmp_path / "x.pt")], catch_exceptions=False)
    assert f"try: dfer-run --demo --bundle '{bundle}'\n" in made.output

    made = CliRunner().invoke(export, ["--bundle", str(bundle), "--triton", str(tmp_path / "my bundles" / "models")])
    assert f"--model-repository='{tmp_path / 'my bundles' / 'models'}'\n" in made.output
    assert f"dfer-run clip.mp4 --bundle '{bundle}' --provider" in made.output
