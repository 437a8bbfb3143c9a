"""JAS, the joint dynamic alignment synchronizer: one temporal transformer for both videos and classes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional


class TemporalLayer(nn.Module):
    """A pre-norm transformer layer over [N,L,D]: self-attention, then an MLP with GELU.

    head_width: of each head; default D/heads. mlp_width: default 4D. bias: of queries, keys and values.
    gelu: "none" for the exact one, "tanh" for its approximation.

    Not `nn.TransformerEncoderLayer`, because its fused inference path cannot be exported to ONNX.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        head_width: int | None = None,
        mlp_width: int | None = None,
        bias: bool = True,
        gelu: str = "none",
    ) -> None:
        super().__init__()
        self.heads = heads
        inner, hidden = heads * (head_width or width // heads), mlp_width or 4 * width
        self.norm_attention = nn.LayerNorm(width)
        self.to_queries_keys_values = nn.Linear(width, 3 * inner, bias=bias)
        self.from_heads = nn.Linear(inner, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(gelu), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def start_as_identity(self) -> TemporalLayer:
        """Make this layer return its input unchanged, so that adding it to a stack changes nothing."""
        for last in (self.from_heads, self.mlp[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        return self

    def forward(self, x: Tensor, wanted: int | None = None) -> Tensor:
        """Map [N,L,D] to [N,L,D], or to [N,wanted,D]: only the first states, which costs less."""
        mixed = self.to_queries_keys_values(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)  # each [N,heads,L,head width]
        x, queries = x[:, :wanted], queries[:, :, :wanted]
        attention = (queries @ keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
        seen = (attention.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.from_heads(seen))
        result: Tensor = x + self.dropout(self.mlp(self.norm_mlp(x)))
        return result


HEADS, DROPOUT = 8, 0.1


class Synchronizer(nn.Module):
    """Positional embedding [1,L,D], temporal layers, mean over time, L2-norm: [N,L,D] → [N,D].

    The same weights process the video's T frame features and the classes' S = T sentence features, which aligns
    the two in time (Align-DFER, section on JAS; layer layout, 8 heads and MLP 4D are our interpretation).
    """

    def __init__(self, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.layers = nn.ModuleList(TemporalLayer(width, HEADS, DROPOUT) for _ in range(layers))

    @classmethod
    def grown(cls, length: int, width: int, layers: int) -> Synchronizer:
        """Build one that starts as (nearly) the temporal mean, so that no training step starts worse than the last."""
        synchronizer = cls(length, width, 0)
        for _ in range(layers):
            synchronizer.grow()
        return synchronizer

    def grow(self) -> None:
        """Append a layer that starts as the identity."""
        layer = TemporalLayer(self.position.shape[2], HEADS, DROPOUT).start_as_identity()
        self.layers.append(layer.to(self.position.device))

    def first_layers(self, count: int) -> Synchronizer:
        """Return a copy with the positional embedding and the first `count` layers."""
        copied = copy.deepcopy(self)
        copied.layers = copied.layers[:count]
        return copied

    def forward(self, sequence: Tensor) -> Tensor:
        x = sequence + self.position
        for layer in self.layers:
            x = layer(x)
        return functional.normalize(x.mean(dim=1), dim=-1)


class TemporalMean(nn.Module):
    """Mean over time, L2-norm: [N,L,D] → [N,D]. Used where there is no temporal encoder."""

    def forward(self, sequence: Tensor) -> Tensor:
        return functional.normalize(sequence.mean(dim=1), dim=-1)
