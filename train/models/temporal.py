"""DFER-CLIP's temporal net, whose class token summarises the video; and the configuration of all temporal parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .synchronizer import Synchronizer, TemporalLayer, TemporalMean

HEADS, HEAD_WIDTH, MLP_WIDTH = 8, 64, 1024  # as published, whatever D is


class TemporalNet(nn.Module):
    """Transformer on a class token and T frame features, positional embedding [1,T+1,D]; returns the token's state.

    Maps [N,T,D] to [N,D]. As in DFER-CLIP's published code: the image encoder's features are not normalised; queries,
    keys and values have no bias; GELU is the tanh approximation; no dropout and no final norm.
    """

    def __init__(self, window: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, window + 1, width))
        self.layers = nn.ModuleList(
            TemporalLayer(width, HEADS, 0.0, HEAD_WIDTH, MLP_WIDTH, bias=False, gelu="tanh") for _ in range(layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        first = self.class_token.expand(features.shape[0], -1, -1)  # len() would fix the batch in an exported graph
        x = torch.cat([first, features], dim=1) + self.position
        *inner, last = self.layers
        for layer in inner:
            x = layer(x)
        video: Tensor = last(x, wanted=1)[:, 0]  # only the class token is needed
        return video


def temporal_config(part: nn.Module) -> dict[str, Any]:
    """Return plain values from which `build_temporal` rebuilds a temporal part. Raises TypeError for other modules."""
    if isinstance(part, TemporalMean):
        return {"kind": "mean", "layers": 0}
    if isinstance(part, (Synchronizer, TemporalNet)):
        return {"kind": "synchronizer" if isinstance(part, Synchronizer) else "net", "layers": len(part.layers)}
    raise TypeError(f"{type(part).__name__} is no synchronizer, temporal net or mean over time")


def build_temporal(config: dict[str, Any], window: int, width: int) -> nn.Module:
    """Build the temporal part of `temporal_config`, with random weights. Raises KeyError or ValueError if invalid."""
    kind, layers = config["kind"], config["layers"]
    if kind == "mean":
        return TemporalMean()
    if kind not in ("synchronizer", "net"):
        raise ValueError(f"temporal part {kind!r} is unknown")
    return Synchronizer(window, width, layers) if kind == "synchronizer" else TemporalNet(window, width, layers)
