"""Adapters: small trained layers inside a frozen transformer (FineCLIPER, arXiv 2407.02157, §3.2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

PARALLEL = 0.5
"""s, by which the adapter beside an MLP counts, as in the paper."""


class Adapter(nn.Module):
    """Linear down, GELU, linear up: [..., width] → [..., width]; at first all zeros, so that it changes nothing.

    ratio: of its hidden width to `width` (our choice: 1/4).
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(width * ratio))
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.up(functional.gelu(self.down(x)))
        return adapted


class BlockAdapters(nn.Module):
    """The two of a transformer block: in series after its attention, with a skip of its own, and beside its MLP."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.serial, self.parallel = Adapter(width, ratio), Adapter(width, ratio)


class AdaptedAttention(nn.Module):
    """An attention followed by an adapter; takes and gives what `nn.MultiheadAttention` does."""

    def __init__(self, attention: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.attention, self.adapter = attention, adapter

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        attended = self.attention(query, key, value, **options)[0]
        return attended + self.adapter(attended), None


class AdaptedMlp(nn.Module):
    """An MLP with an adapter beside it."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp, self.adapter = mlp, adapter

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mlp(x) + PARALLEL * self.adapter(x)
        return result


def make_adapters(blocks: nn.ModuleList, ratio: float) -> nn.ModuleList:
    """Adapters for every block of one of open_clip's transformers."""
    return nn.ModuleList(BlockAdapters(block.ln_1.normalized_shape[0], ratio) for block in blocks)  # type: ignore[union-attr, index, arg-type]


def insert_adapters(blocks: nn.ModuleList, adapters: nn.ModuleList) -> None:
    """Put adapters into the blocks, for good."""
    for block, pair in zip(blocks, adapters, strict=True):
        parts: Any = block
        parts.attn = AdaptedAttention(parts.attn, pair.serial)  # type: ignore[arg-type]
        parts.mlp = AdaptedMlp(parts.mlp, pair.parallel)  # type: ignore[arg-type]


def run_adapted(blocks: nn.ModuleList, adapters: nn.ModuleList, x: Tensor, mask: Tensor) -> Tensor:
    """Sequences [N,L,D] through blocks that serve several sets of adapters, one of which is used here.

    mask: added to the scores of attention, [L,L].
    """
    for block, pair in zip(blocks, adapters, strict=True):
        parts: Any = block
        serial, parallel = AdaptedAttention(parts.attn, pair.serial), AdaptedMlp(parts.mlp, pair.parallel)  # type: ignore[arg-type]
        normed = parts.ln_1(x)
        x = x + parts.ls_1(serial(normed, normed, normed, need_weights=False, attn_mask=mask)[0])
        x = x + parts.ls_2(parallel(parts.ln_2(x)))
    return x
