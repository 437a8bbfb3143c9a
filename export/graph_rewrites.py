"""Parts of a model that compute the same with less, put in the place of the published ones while a graph is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.bundle import Preprocessing
from ..train.methods import lay_out, normalise_pixels

_GREY = 128.0
"""In the middle of a pixel's range: what is left of it is exact in every precision, 8 bits included."""


class Pixels(nn.Module):
    """uint8 [N,H,W,3] → float32 [N,3,S,S], as the image tower was taught to read them."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, frames: Tensor) -> Tensor:
        return normalise_pixels(frames, self.preprocessing)


class CentredPixels(Pixels):
    """The same without scale and offset per channel, which `PatchProduct` has in its weights."""

    def forward(self, frames: Tensor) -> Tensor:
        return lay_out(frames.to(torch.float32) - _GREY, self.preprocessing)


class PatchProduct(nn.Module):
    """A vision transformer's patch embedding, of `CentredPixels`: [N,3,S,S] → [N,width,patches].

    Patches do not overlap: their convolution is a product of each patch with a matrix, for which every backend has its
    fastest kernels, INT8 ones included.
    """

    def __init__(self, published: nn.Conv2d, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.patch = published.kernel_size[0]
        weight = published.weight.detach().double()
        mean, std = (
            torch.tensor(values).double().view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
        )
        offset = (weight * (_GREY / 255 - mean) / std).sum(dim=(1, 2, 3))
        matrix = (weight / (255 * std)).permute(0, 2, 3, 1).flatten(1)  # pixels of a patch lie row by row, RGB each
        self.product = _linear(matrix.float(), offset.float())

    def forward(self, pixels: Tensor) -> Tensor:
        side = pixels.shape[2] // self.patch
        rows = pixels.permute(0, 2, 3, 1).reshape(-1, side, self.patch, side, 3 * self.patch)
        embedded: Tensor = self.product(rows.transpose(2, 3).reshape(-1, side**2, 3 * self.patch**2))
        return embedded.transpose(1, 2)


class PlainAttention(nn.Module):
    """`nn.MultiheadAttention` on sequences [N,L,D] as the dozen operators that it comes to, on the same weights.

    Its own path moves the batch behind the tokens and back, copying five times per layer, and finds out shapes as it
    runs; its fused path has no ONNX form at all. Queries, keys and values are three products: OpenVINO fuses no
    scales into an INT8 product that is split afterwards.
    """

    def __init__(self, published: nn.MultiheadAttention) -> None:
        super().__init__()
        self.published, self.heads = published, published.num_heads
        scales = (published.head_dim**-0.5, 1.0, 1.0)  # of the scores: a factor of the queries
        parts = zip(published.in_proj_weight.chunk(3), published.in_proj_bias.chunk(3), scales, strict=True)
        self.queries, self.keys, self.values = (_linear(scale * weight, scale * bias) for weight, bias, scale in parts)
        self.out_proj = published.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        masked = options.get("attn_mask") is not None or options.get("key_padding_mask") is not None
        if masked or key is not value:
            return self.published(query, key, value, **options)
        parts = self.queries(query), self.keys(key), self.values(key)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = (queries @ keys.transpose(2, 3)).softmax(dim=-1) @ values
        return self.out_proj(seen.transpose(1, 2).flatten(2)), None


class ClassTokenBlock(nn.Module):
    """The last block of a vision transformer [N,L,D] → [N,1,D] of which only the class token, the first, is read.

    Only that token asks, and goes through the MLP; the others are keys and values. The result is the same, for 1/14
    less work in a ViT of twelve blocks.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        normed = self.ln_1(x)
        first = x[:, :1] + self.ls_1(self.attn(normed[:, :1], normed, normed)[0])
        result: Tensor = first + self.ls_2(self.mlp(self.ln_2(first)))
        return result


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


@contextmanager
def rewritten(graph: nn.Module) -> Iterator[None]:
    """While tracing, the parts of a model are those that compute the same with less."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, part: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, part.eval())

    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parent in list(graph.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.MultiheadAttention) and _is_plain(child):
                    replace(parent, name, PlainAttention(child))
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
    """Whether this is open_clip's vision transformer, of blocks as CLIP has them, that reads its class token only."""
    if getattr(module, "pool_type", None) != "tok" or module.attn_pool is not None or module.output_tokens:
        return False
    last = module.transformer.resblocks[-1]
    plain = type(last).__name__ == "ResidualAttentionBlock" and not hasattr(last, "ln_1_kv")
    return plain and isinstance(last.attn, PlainAttention)


def _embeds_patches(module: Any, size: int) -> bool:
    """Whether this is open_clip's vision transformer, and cuts images of this side into patches that cover them."""
    first = getattr(module, "conv1", None)
    if not hasattr(module, "class_embedding") or not isinstance(first, nn.Conv2d) or first.bias is not None:
        return False
    rows, columns = first.kernel_size
    return rows == columns and first.stride == first.kernel_size and size % rows == 0
