"""Adapters: small trained layers inside a frozen transformer (FineCLIPER, arXiv 2407.02157, §3.2), and LoRA."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

PARALLEL = 0.5
"""s, the paper's factor on the adapter parallel to an MLP."""
RANK, ALPHA = 8, 32
"""LoRA (Hu et al. 2022): rank of the matrix added to a weight; its factor is alpha / rank."""


class Adapter(nn.Module):
    """Linear down, activation, linear up: [..., width] → [..., width]; outputs zeros at first, so it changes nothing.

    ratio: of its hidden width to `width` (our choice: 1/4). scale: factor on its output.
    """

    def __init__(self, width: int, ratio: float, activation: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        hidden = max(1, round(width * ratio))
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation, self.scale = activation, scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.up(self.activation(self.down(x)))
        return adapted if self.scale == 1 else self.scale * adapted

    def after(self, layer: nn.Linear) -> nn.Module:
        """Fuse `layer` and this adapter with its skip: both read the layer's input, so one product less in sequence."""
        return _AdaptedLinear(layer, self)


class _AdaptedLinear(nn.Module):
    def __init__(self, layer: nn.Linear, adapter: Adapter) -> None:
        super().__init__()
        down = adapter.down
        self.layer, self.activation = layer, adapter.activation
        self.down = linear(down.weight @ layer.weight, down.weight @ layer.bias + down.bias)
        self.up = linear(adapter.scale * adapter.up.weight, adapter.scale * adapter.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) + self.up(self.activation(self.down(x)))
        return result


class BlockAdapters(nn.Module):
    """The two adapters of a transformer block: one in series after attention, with its own skip, and one parallel to
    the MLP, times `scale`."""

    def __init__(self, width: int, ratio: float, activation: nn.Module, scale: float) -> None:
        super().__init__()
        self.serial = Adapter(width, ratio, copy.deepcopy(activation))
        self.parallel = Adapter(width, ratio, copy.deepcopy(activation), scale)


class AdaptedAttention(nn.Module):
    """Attention followed by an adapter, with the interface of `nn.MultiheadAttention`."""

    def __init__(self, attention: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.attention, self.adapter = attention, adapter

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        attended = self.attention(query, key, value, **options)[0]
        return attended + self.adapter(attended), None


class AdaptedMlp(nn.Module):
    """An MLP of open_clip's blocks with a parallel adapter."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp, self.adapter = mlp, adapter

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mlp(x) + self.adapter(x)
        return result

    @property
    def foldable(self) -> bool:
        """Whether the adapter has the MLP's activation, so that both can be merged into one wider MLP."""
        activation: Any = self.mlp.gelu
        return type(activation) is type(self.adapter.activation) and activation.extra_repr() == (
            self.adapter.activation.extra_repr()
        )

    def folded(self) -> nn.Module:
        """Return the equivalent merged MLP: the adapter's hidden units are appended to the MLP's own."""
        first: Any = self.mlp.c_fc
        last: Any = self.mlp.c_proj
        down, up, scale = self.adapter.down, self.adapter.up, self.adapter.scale
        return nn.Sequential(
            linear(torch.cat([first.weight, down.weight]), torch.cat([first.bias, down.bias])),
            self.adapter.activation,
            linear(torch.cat([last.weight, scale * up.weight], dim=1), last.bias + scale * up.bias),
        )


class LowRank(nn.Module):
    """Adds a trained low-rank product to each part of a weight [parts·out, in]; at first it adds zeros."""

    def __init__(self, weight: Tensor, parts: int = 1) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(parts, RANK, weight.shape[1]) * weight.shape[1] ** -0.5)
        self.out = nn.Parameter(torch.zeros(parts, weight.shape[0] // parts, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ALPHA / RANK * (self.out @ self.into).flatten(0, 1)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with this weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


def make_adapters(
    blocks: nn.ModuleList, ratio: float, activation: nn.Module | None = None, scale: float = PARALLEL
) -> nn.ModuleList:
    """Make adapters for every block of an open_clip transformer; `activation` is GELU by default."""
    widths: list[int] = [block.ln_1.normalized_shape[0] for block in blocks]  # type: ignore[union-attr, index, misc]
    return nn.ModuleList(BlockAdapters(width, ratio, activation or nn.GELU(), scale) for width in widths)


def insert_adapters(blocks: nn.ModuleList, adapters: nn.ModuleList) -> None:
    """Put adapters into the blocks permanently."""
    for block, pair in zip(blocks, adapters, strict=True):
        parts: Any = block
        parts.attn = AdaptedAttention(parts.attn, pair.serial)  # type: ignore[arg-type]
        parts.mlp = AdaptedMlp(parts.mlp, pair.parallel)  # type: ignore[arg-type]


def make_low_rank(blocks: nn.ModuleList) -> nn.ModuleList:
    """Make LoRA for every block: on queries, keys and values, attention's output projection, and both MLP layers."""
    return nn.ModuleList(
        nn.ModuleList(LowRank(getattr(part, name), parts) for part, name, parts in _weights(block)) for block in blocks
    )


def insert_low_rank(blocks: nn.ModuleList, adapters: nn.ModuleList) -> None:
    """Add LoRA to the blocks' weights as parametrizations."""
    for block, added in zip(blocks, adapters, strict=True):
        of_block: Any = added
        for (part, name, _), one in zip(_weights(block), of_block, strict=True):
            parametrize.register_parametrization(part, name, one)


def _weights(block: Any) -> list[tuple[nn.Module, str, int]]:
    """Return the weights of a block that LoRA adds to: module, name, and number of matrices stacked in it."""
    attention, mlp = block.attn, block.mlp
    return [
        (attention, "in_proj_weight", 3),
        (attention.out_proj, "weight", 1),
        (mlp.c_fc, "weight", 1),
        (mlp.c_proj, "weight", 1),
    ]


def run_adapted(blocks: nn.ModuleList, adapters: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
    """Run sequences [N,L,D] through blocks with one of several sets of adapters.

    mask: added to the attention scores, [L,L].
    """
    for block, pair in zip(blocks, adapters, strict=True):
        parts: Any = block
        serial, parallel = AdaptedAttention(parts.attn, pair.serial), AdaptedMlp(parts.mlp, pair.parallel)  # type: ignore[arg-type]
        normed = parts.ln_1(x)
        x = x + parts.ls_1(serial(normed, normed, normed, need_weights=False, attn_mask=mask)[0])
        x = x + parts.ls_2(parallel(parts.ln_2(x)))
    return x
