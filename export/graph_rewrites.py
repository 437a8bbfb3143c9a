"""Equivalent modules with fewer operators, which replace a model's own while a graph is traced.

The model's modules are found by open_clip's names. If these change, nothing is replaced: the graph stays correct but is
slower, and `missed_rewrites` reports it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..runtime.bundle import Preprocessing
from ..train.methods import lay_out, normalise_pixels
from ..train.methods.student import Student
from ..train.models.adapters import AdaptedAttention, AdaptedMlp, linear
from ..train.models.clip import load_timm
from ..train.models.temporal import TemporalNet

_GREY = 128.0
"""The middle of a pixel's range: differences from it are exact in every precision, 8 bits included."""


class Pixels(nn.Module):
    """uint8 [N,H,W,3] → float32 [N,3,S,S], with the image encoder's preprocessing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, frames: Tensor) -> Tensor:
        return normalise_pixels(frames, self.preprocessing)


class CentredPixels(Pixels):
    """`Pixels` without scale and offset per channel, which are in the weights of `PatchProduct`."""

    def forward(self, frames: Tensor) -> Tensor:
        return lay_out(frames.to(torch.float32) - _GREY, self.preprocessing)


class PatchProduct(nn.Module):
    """A vision transformer's patch embedding of `CentredPixels`: [N,3,S,S] → [N,width,patches].

    Patches do not overlap, so the convolution is a product of each patch with a matrix, for which every backend has its
    fastest kernels, INT8 included.
    """

    def __init__(self, original: nn.Conv2d, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.patch = original.kernel_size[0]
        weight = original.weight.detach().double()
        mean, std = (
            torch.tensor(values).double().view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
        )
        offset = (weight * (_GREY / 255 - mean) / std).sum(dim=(1, 2, 3))
        matrix = (weight / (255 * std)).permute(0, 2, 3, 1).flatten(1)  # a patch's pixels are row-major, RGB each
        self.product = linear(matrix.float(), offset.float())

    def forward(self, pixels: Tensor) -> Tensor:
        side = pixels.shape[2] // self.patch
        rows = pixels.permute(0, 2, 3, 1).reshape(-1, side, self.patch, side, 3 * self.patch)
        embedded: Tensor = self.product(rows.transpose(2, 3).reshape(-1, side**2, 3 * self.patch**2))
        return embedded.transpose(1, 2)


class PlainAttention(nn.Module):
    """`nn.MultiheadAttention` on sequences [N,L,D] as a dozen operators, with the same weights.

    PyTorch's own path transposes batch and tokens and back, copies five times per layer, and computes shapes at
    run time; its fused path cannot be exported to ONNX. Queries, keys and values are three products, because OpenVINO
    does not fuse scales into an INT8 product that is split afterwards.
    An adapter in series becomes part of the output projection.
    """

    def __init__(self, original: nn.MultiheadAttention | AdaptedAttention) -> None:
        super().__init__()
        attention: Any = original.attention if isinstance(original, AdaptedAttention) else original
        self.original, self.heads = original, attention.num_heads
        scales = (attention.head_dim**-0.5, 1.0, 1.0)  # the factor on scores is moved into the queries
        parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), scales, strict=True)
        self.queries, self.keys, self.values = (linear(scale * weight, scale * bias) for weight, bias, scale in parts)
        self.out_proj: nn.Module = _merged(attention.out_proj)
        if isinstance(original, AdaptedAttention):
            self.out_proj = original.adapter.after(self.out_proj)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        masked = options.get("attn_mask") is not None or options.get("key_padding_mask") is not None
        if masked or key is not value:
            return self.original(query, key, value, **options)
        parts = self.queries(query), self.keys(key), self.values(key)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = (queries @ keys.transpose(2, 3)).softmax(dim=-1) @ values
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class ClassTokenBlock(nn.Module):
    """The last block of a vision transformer, [N,L,D] → [N,1,D], of which only the class token, the first, is used.

    It is the only query and the only token in the MLP; the others are keys and values. The result is the same,
    with 1/14 less work in a ViT of twelve blocks.
    """

    PARTS = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        normed = self.ln_1(x)
        first = x[:, :1] + self.ls_1(self.attn(normed[:, :1], normed, normed)[0])
        result: Tensor = first + self.ls_2(self.mlp(self.ln_2(first)))
        return result


class ConstantQueryNet(nn.Module):
    """`TemporalNet` of one layer, [N,T,D] → [N,D], with a third of the arithmetic and fewer weights.

    The class token is the only query, and it is the same in every window. So keys are not needed: a head's scores are
    products of the states with one constant vector, and its values are one product of the states' weighted mean.
    """

    def __init__(self, net: TemporalNet) -> None:
        super().__init__()
        layer: Any = net.layers[0]
        self.norm, self.from_heads = layer.norm_attention, layer.from_heads
        self.norm_mlp, self.mlp = layer.norm_mlp, layer.mlp
        of_query, of_keys, of_values = (
            weight.unflatten(0, (layer.heads, -1)) for weight in layer.to_queries_keys_values.weight.chunk(3)
        )  # each [heads, head width, D]
        token, self.position = net.class_token[0] + net.position[0, :1], nn.Parameter(net.position[:, 1:])
        self.token, self.first = nn.Parameter(token), nn.Parameter(self.norm(token))
        queries = of_query @ self.first[0] * of_query.shape[1] ** -0.5  # [heads, head width]
        self.scores = nn.Parameter((queries[:, None] @ of_keys)[:, 0].T)
        self.values = nn.Parameter(of_values.transpose(1, 2))

    def forward(self, features: Tensor) -> Tensor:
        first = self.first.expand(features.shape[0], 1, -1)
        states = torch.cat([first, self.norm(features + self.position)], dim=1)
        means = (states @ self.scores).softmax(dim=1).transpose(1, 2) @ states  # [N, heads, D]
        seen = (means.transpose(0, 1) @ self.values).transpose(0, 1).flatten(1)
        video = self.token + self.from_heads(seen)
        result: Tensor = video + self.mlp(self.norm_mlp(video))
        return result


def _merged(layer: nn.Linear) -> nn.Linear:
    """Return the layer with parametrizations, such as LoRA, merged into its weight."""
    return linear(layer.weight, layer.bias) if parametrize.is_parametrized(layer) else layer


def _join_branches(tower: nn.Module) -> nn.Module:
    """Return a copy of a timm tower with its parallel branches, as in MobileOne, merged into one convolution."""
    load_timm()
    from timm.utils import reparameterize_model

    joined: nn.Module = reparameterize_model(tower)
    return joined


@contextmanager
def rewritten(graph: nn.Module) -> Iterator[None]:
    """Replace modules of `graph` by those of this file, where possible, within the context."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, part: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, part.eval())

    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parent in list(graph.modules()):
            for name, child in list(parent.named_children()):
                attention = child.attention if isinstance(child, AdaptedAttention) else child
                if isinstance(attention, nn.MultiheadAttention) and _is_plain(attention):
                    replace(parent, name, PlainAttention(child))  # type: ignore[arg-type]
                elif isinstance(child, TemporalNet) and len(child.layers) == 1:
                    replace(parent, name, ConstantQueryNet(child))
                elif isinstance(child, AdaptedMlp) and child.foldable:
                    replace(parent, name, child.folded())
                elif isinstance(parent, Student) and child is parent.tower:
                    replace(parent, name, _join_branches(child))
                elif isinstance(child, nn.Linear) and parametrize.is_parametrized(child):
                    replace(parent, name, _merged(child))
        for parent in list(graph.modules()):
            if _reads_class_token(parent):
                blocks: Any = parent.transformer.resblocks  # type: ignore[union-attr]
                replace(blocks, str(len(blocks) - 1), ClassTokenBlock(blocks[-1]))
            pixels = getattr(graph, "pixels", None)
            if isinstance(pixels, Pixels) and _embeds_patches(parent, pixels.preprocessing.encoder_size):
                replace(parent, "conv1", PatchProduct(parent.conv1, pixels.preprocessing))  # type: ignore[arg-type]
                replace(graph, "pixels", CentredPixels(pixels.preprocessing))
        yield
    finally:
        for parent, name, child in reversed(replaced):
            setattr(parent, name, child)
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    return (
        attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def _reads_class_token(module: Any) -> bool:
    """Return whether this is open_clip's vision transformer with CLIP's blocks, and outputs only its class token."""
    reads_others = getattr(module, "attn_pool", None) is not None or getattr(module, "output_tokens", False)
    blocks = getattr(getattr(module, "transformer", None), "resblocks", None)
    if getattr(module, "pool_type", None) != "tok" or reads_others or not blocks:
        return False
    last = blocks[-1]
    plain = type(last).__name__ == "ResidualAttentionBlock" and not hasattr(last, "ln_1_kv")
    if not plain or not all(hasattr(last, name) for name in ClassTokenBlock.PARTS):
        return False
    return isinstance(last.attn, PlainAttention)


def _embeds_patches(module: Any, size: int) -> bool:
    """Return whether this is open_clip's vision transformer with patches that tile images of this side exactly."""
    first = getattr(module, "conv1", None)
    if not hasattr(module, "class_embedding") or not isinstance(first, nn.Conv2d) or first.bias is not None:
        return False
    rows, columns = first.kernel_size
    return rows == columns and first.stride == first.kernel_size and size % rows == 0


def missed_rewrites(graph: Any) -> list[str]:
    """Return what `rewritten` could not replace in a vision transformer, and the cost; empty for other encoders.

    graph: ONNX GraphProto as PyTorch exports it. It is judged by its operators, not by names of modules: an encoder
        with attention and at most one convolution is a vision transformer.
    """
    attention = [node for node in graph.node if node.op_type == "Softmax"]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if not attention or len(convolutions) > 1:
        return []
    missed = []
    others = sum(PlainAttention.__name__ not in _classes(node) for node in attention)
    if others:
        missed.append(f"PyTorch's attention in {others} of {len(attention)} layers (about a tenth of the time in INT8)")
    if _selects_token(graph, attention[-1]):
        missed.append(f"all tokens in the last block (about {0.83 / len(attention):.0%} of the work)")
    if convolutions:
        missed.append("a convolution over the patches (slow in INT8)")
    return missed


def _classes(node: Any) -> list[str]:
    """Return the classes of the modules that a node was exported from, outermost first."""
    found = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.class_hierarchy"]
    return [path.rpartition(".")[2] for path in ast.literal_eval(found[0])] if found else []


def _selects_token(graph: Any, attention: Any) -> bool:
    """Return whether all tokens [N,L,D] are computed after the last attention although only one is used."""
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in graph.value_info}
    for node in list(graph.node)[list(graph.node).index(attention) :]:
        if node.op_type in ("Gather", "Slice"):
            tokens, read = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
            if len(tokens) == 3 and tokens[1] > 1 and (len(read) == 2 or read[1:2] == [1]):
                return True
    return False
