"""Export: graphs that agree with PyTorch, or nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from networks import random_crops, small_vit

from dfer.export import exporting, graphs
from dfer.export.command import main as export
from dfer.export.exporting import export_checkpoint
from dfer.export.graphs import trace_encoder, trace_head
from dfer.export.parity import Parity, measure_parity
from dfer.runtime import Bundle, DferError, Recognizer
from dfer.runtime.engines import open_engine
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip
from helpers import Pipeline


def test_the_bundle_says_where_it_came_from_and_what_was_measured(pipeline: Pipeline) -> None:
    manifest = Bundle.open(pipeline.bundle).manifest
    assert (manifest.method, manifest.window, manifest.width, manifest.scale) == ("align-dfer", 16, 64, 100.0)
    assert manifest.preprocessing.grey
    parity = manifest.precisions["fp32"]["parity"]
    assert parity["cosine"] >= 0.9999
    assert parity["max_delta"] <= 1e-3
    assert parity["frames"] == 64
    assert manifest.provenance["training"]["plan"]["epochs"] == [20, 20, 20]
    assert "wrote" in pipeline.printed


def test_the_runtime_computes_what_torch_computes(pipeline: Pipeline) -> None:
    method, _ = load_checkpoint(pipeline.checkpoint)
    crops = np.random.default_rng(1).integers(0, 256, (16, 112, 112, 3), dtype=np.uint8)
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
    assert b"/tests/" not in model.SerializeToString()  # no trace of the machine it was made on


def test_attention_is_traced_as_few_plain_operators() -> None:
    nodes = onnx.load_from_string(trace_encoder(small_vit(layers=2))).graph.node
    inside = Counter(node.op_type for node in nodes if "resblocks.1.attn" in node.name)
    assert inside["Transpose"] <= 4 and inside["Reshape"] <= 4 and not inside["Shape"] and not inside["Split"]


@pytest.mark.parametrize(
    "changes", [{}, {"grey": True}, {"size": 24}, {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4)}]
)
def test_patches_are_embedded_by_one_product_that_normalises_too(changes: dict[str, Any]) -> None:
    method = small_vit(layers=1)
    method.preprocessing = replace(method.preprocessing, **changes)
    graph, crops = trace_encoder(method), random_crops(5, size=method.preprocessing.size)
    operators = Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)
    assert not operators["Conv"] and operators["Sub"] == 1
    with torch.inference_mode(), open_engine(graph, "cpu") as engine:
        wanted = method.encode_frames(torch.from_numpy(crops)).numpy()
        np.testing.assert_allclose(engine.run({"frames": crops})["features"], wanted, atol=1e-5)
    assert isinstance(method.clip_model.visual.conv1, torch.nn.Conv2d)  # put back


def test_attention_that_is_masked_or_looks_elsewhere_is_traced_as_it_is() -> None:
    class Masked(torch.nn.Module):
        """Attention in which no token looks ahead, and attention to another sequence."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.own = torch.nn.MultiheadAttention(8, 2, batch_first=True)
            self.other = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
            seen = self.own(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
            return self.other(seen, tokens, tokens, need_weights=False)[0]  # type: ignore[no-any-return]

    module, tokens = Masked().eval(), torch.randn(3, 4, 8)
    graph, _ = graphs._trace(module, tokens, "tokens", "seen")
    assert isinstance(module.own, torch.nn.MultiheadAttention)  # as it was
    with torch.inference_mode(), open_engine(graph, "cpu") as engine:
        np.testing.assert_allclose(engine.run({"tokens": tokens.numpy()})["seen"], module(tokens).numpy(), atol=1e-5)


def test_a_graph_that_differs_is_refused_and_the_old_bundle_stays(
    pipeline: Pipeline, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(method: AlignDfer) -> bytes:
        with torch.no_grad():
            next(method.clip_model.visual.parameters()).mul_(1.1)  # type: ignore[union-attr]
        graph = trace_encoder(method)
        with torch.no_grad():
            next(method.clip_model.visual.parameters()).div_(1.1)  # type: ignore[union-attr]
        return graph

    before = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(exporting, "trace_encoder", poisoned)
    with pytest.raises(DferError, match="fp32 export refused: it differs from the PyTorch model"):
        export_checkpoint(pipeline.checkpoint, bundle)
    assert (bundle / "manifest.json").read_bytes() == before
    Bundle.open(bundle)


@pytest.mark.parametrize(("cosine", "delta"), [(0.9998, 0.0), (1.0, 0.002), (float("nan"), 0.0), (1.0, float("nan"))])
def test_the_gate_refuses_what_is_off_or_not_a_number(cosine: float, delta: float) -> None:
    with pytest.raises(DferError, match="refused"):
        Parity(cosine, delta, 1.0, 1.0, 1).check("fp32")


def test_clip_vit_b_32_exports_at_full_size() -> None:
    """CLIP's own architecture with random weights: 112-pixel crops are upsampled to 224 inside the graph."""
    torch.manual_seed(0)
    method = AlignDfer(load_clip("ViT-B-32"), tokens=4, video_layers=1).eval()
    with torch.inference_mode():
        class_matrix = method.class_matrix().clone()
    encoder, head = trace_encoder(method), trace_head(method, class_matrix)
    model = onnx.load_from_string(encoder)
    assert [node.op_type for node in model.graph.node].count("LayerNormalization") == 2 * 12 + 2
    assert 340e6 < len(encoder) < 360e6
    windows = np.random.default_rng(0).integers(0, 256, (1, 16, 112, 112, 3), dtype=np.uint8)
    parity = measure_parity(method, encoder, head, windows, batch=3)  # 16 frames leave a last batch of 1
    parity.check("fp32")


def test_bad_checkpoints_and_places_give_one_line_and_nothing_else(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    calls = [
        (["--ckpt", tmp_path / "absent.pt"], "no such file"),
        (["--ckpt", tmp_path / "text.pt"], "text.pt"),
        (["--ckpt", pipeline.checkpoint, "--out", tmp_path / "no" / "x.dfer"], "does not exist"),
    ]
    for arguments, words in calls:
        result = CliRunner().invoke(export, [str(argument) for argument in arguments])
        assert result.exit_code == 1, result.output
        assert words in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]
