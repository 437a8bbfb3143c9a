"""A vision transformer's graph is rewritten into fewer operators; where that fails, a warning says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from networks import random_crops, small_vit
from torch import nn

from dfer.export.command import main as export
from dfer.export.graph_rewrites import missed_rewrites, rewritten
from dfer.export.graphs import EncoderGraph, TracedMethod, trace_encoder
from dfer.export.parity import reference_outputs
from dfer.runtime import Bundle
from dfer.runtime.bundle import DEMO
from dfer.runtime.engines import open_engine
from dfer.train.checkpoints.checkpoint import save_checkpoint
from dfer.train.methods import Method
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.student import Student
from dfer.train.models.clip import ClipSizes, build_clip, load_clip
from dfer.train.models.temporal import TemporalNet


@dataclass(frozen=True)
class Other:
    """Another model, its bundle and what the command printed of it."""

    method: AlignDfer
    bundle: Bundle
    printed: str


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    """A ViT of CLIP's layout that upsamples grey 32-pixel crops to 64 and normalises in its own way, exported while the
    class of its blocks has another name, as if open_clip had renamed it."""
    torch.manual_seed(0)
    clip = build_clip(ClipSizes(64, 64, 16, 128, 2, 77, 49408, 64, 1), crop_size=32, grey=True)
    preprocessing = replace(clip.preprocessing, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    method: Any = AlignDfer(replace(clip, preprocessing=preprocessing), tokens=0, video_layers=None).eval()
    checkpoint = tmp_path_factory.mktemp("other") / "other.pt"
    save_checkpoint(method, checkpoint, {})
    block = type(method.clip_model.visual.transformer.resblocks[0])
    name, block.__name__ = block.__name__, "Block"
    try:
        result = CliRunner().invoke(export, ["--ckpt", str(checkpoint)], catch_exceptions=False)
    finally:
        block.__name__ = name
    assert result.exit_code == 0, result.output
    yield Other(method, Bundle.open(checkpoint.with_suffix(".dfer")), result.output)


def operators(graph: bytes, part: str = "") -> Counter[str]:
    """How many of each operator the nodes have that come from a part of the model."""
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node if part in node.name)


def assert_equal_to_torch(method: Method, graph: bytes) -> None:
    crops = random_crops(5, size=method.preprocessing.size)
    with torch.inference_mode(), open_engine(graph, "cpu") as engine:
        wanted = method.encode_frames(torch.from_numpy(crops)).numpy()
        np.testing.assert_allclose(engine.run({"frames": crops})["features"], wanted, atol=1e-5)


def test_all_rewrites_happen_in_open_clips_vit(vit: AlignDfer, traced: TracedMethod) -> None:
    assert traced.encoder.missed == ()
    assert_equal_to_torch(vit, traced.encoder.onnx)
    visual: Any = vit.clip_model.visual  # whose own modules are back
    assert isinstance(visual.conv1, nn.Conv2d)
    assert all(type(block).__name__ == "ResidualAttentionBlock" for block in visual.transformer.resblocks)
    assert all(type(block.attn) is nn.MultiheadAttention for block in visual.transformer.resblocks)


def test_attention_is_traced_as_few_plain_operators(traced: TracedMethod) -> None:
    inside = operators(traced.encoder.onnx, "resblocks.1.attn")
    assert inside["Softmax"] == 1
    assert inside["Transpose"] <= 4 and inside["Reshape"] <= 4 and not inside["Shape"] and not inside["Split"]


def test_the_last_block_works_on_the_class_token_alone(traced: TracedMethod) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(traced.encoder.onnx))
    types = {value.name: value.type.tensor_type for value in model.graph.value_info}
    layers = [node for node in model.graph.node if node.name.endswith("mlp.c_fc/MatMul")]
    assert [types[node.output[0]].shape.dim[1].dim_value for node in layers] == [17, 1]


def test_patches_are_embedded_by_one_product_that_normalises_too(traced: TracedMethod, other: Other) -> None:
    for graph in (traced.encoder.onnx, other.bundle.read("encoder.fp32.onnx")):
        assert not operators(graph)["Conv"] and operators(graph)["Sub"] == 1


def test_crops_are_upsampled_inside_the_graph_and_every_batch_size_runs(other: Other) -> None:
    encoder, head = (other.bundle.read(f"{name}.fp32.onnx") for name in ("encoder", "head"))
    assert operators(encoder)["LayerNormalization"] == 2 * 2 + 2
    weights = 4 * sum(parameter.numel() for parameter in other.method.image_encoder.parameters())
    assert weights <= len(encoder) < 1.1 * weights  # each is there once
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    reference = reference_outputs(other.method, frames, np.arange(16)[None])
    with open_engine(encoder, "cpu") as encoding, open_engine(head, "cpu") as classifying:
        reference.compare(encoding, classifying, batch=3).check("fp32")  # 16 frames leave a last batch of 1


def test_attention_with_a_mask_or_to_another_sequence_is_computed_as_before() -> None:
    class Masked(nn.Module):
        """Attention to earlier tokens only, and attention of one sequence to another."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.own = nn.MultiheadAttention(8, 2, batch_first=True)
            self.other = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
            attended = self.own(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
            return self.other(attended, tokens, tokens, need_weights=False)[0]  # type: ignore[no-any-return]

    module, tokens = Masked().eval(), torch.randn(3, 4, 8)
    with torch.inference_mode():
        wanted = module(tokens)
        with rewritten(module):
            torch.testing.assert_close(module(tokens), wanted)
            assert not isinstance(module.own, nn.MultiheadAttention)
    assert isinstance(module.own, nn.MultiheadAttention)


def test_a_temporal_layer_whose_query_is_constant_needs_no_keys() -> None:
    torch.manual_seed(0)
    windows = torch.randn(3, 16, 64)
    for layers, fewer in ((1, True), (2, False)):
        holder = torch.nn.Sequential(TemporalNet(16, 64, layers)).eval()
        count = sum(map(torch.numel, holder.parameters()))
        with torch.inference_mode():
            wanted = holder(windows)
            with rewritten(holder):
                torch.testing.assert_close(holder(windows), wanted, atol=1e-5, rtol=0)
                assert (sum(map(torch.numel, holder.parameters())) < count - 64 * 512) == fewer
            torch.testing.assert_close(holder(windows), wanted, atol=0, rtol=0)


def test_a_convolutional_encoder_expects_no_rewrites() -> None:
    graph = onnx.load(DEMO / "encoder.fp32.onnx").graph
    assert sum(node.op_type == "Conv" for node in graph.node) > 1
    assert missed_rewrites(graph) == []


def test_the_command_warns_of_a_block_of_another_name(other: Other) -> None:
    (warning,) = [line for line in other.printed.splitlines() if line.startswith("warning:")]
    assert "is right, but slower" in warning and "all tokens in the last block (about 42% of the work)" in warning
    assert "attention" not in warning and "convolution" not in warning


def test_the_command_says_that_it_assumed_a_window(other: Other) -> None:
    assert "is not known, so windows of 2 s are assumed" in other.printed and "--window" in other.printed
    assert other.bundle.manifest.seconds == 2


class OtherAttention(nn.Module):
    """The same as `nn.MultiheadAttention`, written anew: what a later open_clip may have in its place."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.out_proj = original.num_heads, original.out_proj
        self.in_proj_weight, self.in_proj_bias = original.in_proj_weight, original.in_proj_bias

    def forward(self, query: torch.Tensor, *_: Any, **__: Any) -> Any:
        parts = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        attended = nn.functional.scaled_dot_product_attention(*heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def test_attention_and_patches_of_another_make_are_told_and_the_graph_is_right() -> None:
    method = small_vit()
    visual: Any = method.clip_model.visual
    visual.conv1 = nn.Sequential(visual.conv1)
    visual.pool_type = "avg"  # all tokens are read: nothing to save in the last block
    visual.transformer.resblocks[0].attn = OtherAttention(visual.transformer.resblocks[0].attn)
    traced = trace_encoder(method)
    attention, patches = traced.missed
    assert "attention in 1 of 2 layers" in attention
    assert "convolution over the patches" in patches
    assert_equal_to_torch(method, traced.onnx)


def test_patches_that_are_left_out_are_no_tokens_of_the_graph() -> None:
    torch.manual_seed(0)
    method = AlignDfer(load_clip("dfer-vit", patches=15), tokens=2, video_layers=1).eval()
    visual: Any = method.clip_model.visual
    visual.transformer.resblocks = visual.transformer.resblocks[:2]
    traced = trace_encoder(method)
    assert not traced.missed
    frames = random_crops(2, size=64)
    with open_engine(traced.onnx, "cpu") as engine:
        (found,) = engine.run({"frames": frames}).values()
    with torch.inference_mode():
        np.testing.assert_allclose(found, method.encode_frames(torch.from_numpy(frames)).numpy(), atol=1e-5)
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(traced.onnx))
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in model.graph.value_info}
    scores = [shapes[node.input[0]] for node in model.graph.node if node.op_type == "Softmax"]
    assert {shape[-1] for shape in scores} == {16}


def test_branches_of_a_student_s_tower_become_one_convolution(vit: AlignDfer) -> None:
    """Those of MobileOne (Vasu et al. 2023); the student itself keeps them, for it may learn on."""
    torch.manual_seed(0)
    student = Student.of_teacher(vit, "mobileone_s0", 64, None).eval()
    branches = sum(isinstance(part, nn.Conv2d) for part in student.tower.modules())
    for part in student.tower.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(part.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
    frames = torch.from_numpy(random_crops(3, size=64))
    graph = EncoderGraph(student).eval()
    with torch.inference_mode():
        wanted = student.encode_frames(frames)
        with rewritten(graph):
            torch.testing.assert_close(graph(frames), wanted, atol=1e-4, rtol=0)
            assert sum(isinstance(part, nn.Conv2d) for part in graph.modules()) < branches / 3
    assert branches == sum(isinstance(part, nn.Conv2d) for part in student.tower.modules())
