"""FineCLIPER's middle level: encodes pictures of landmarks in training, and teaches the frames by distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

KINDS = 2
"""Pictures per frame: landmarks and regions (`draw_pictures`)."""


class Middle(nn.Module):
    """Separate adapters in the same frozen tower for each kind of picture, and a gate that fuses them with the frames.

    sets: for each of `KINDS`, adapters of the same type as the tower's own. width: D.
    The gate is a softmax over a frame's feature and its pictures' features; at first all have the same weight.
    """

    def __init__(self, sets: list[nn.ModuleList], width: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(sets)
        self.gate = nn.Linear((1 + KINDS) * width, 1 + KINDS)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def encode(
        self, tower: nn.Module, own: nn.ModuleList, pictures: Tensor, pixels_of: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return L2-normalised features float32 [B,T,KINDS,D] of pictures uint8 [B,T,KINDS,S,S,3].

        tower: its adapters `own` are not used. pixels_of: uint8 [N,S,S,3] → the tower's input.
        """
        kinds = [
            run_with(tower, own, adapters, pixels_of(pictures[:, :, kind].flatten(0, 1)), pictures.shape[1])
            for kind, adapters in enumerate(self.adapters)
        ]
        features = torch.stack(kinds, dim=1).unflatten(0, pictures.shape[:2])
        return functional.normalize(features.float(), dim=-1)

    def fuse(self, frames: Tensor, features: Tensor, drawn: Tensor) -> Tensor:
        """Fuse features of frames [B,T,D] and pictures [B,T,KINDS,D] into [B,T,D], without pictures that are not
        `drawn`, bool [B,T,KINDS]."""
        parts = torch.cat([frames[:, :, None], features], dim=2)
        scores = self.gate(parts.flatten(2)).float()
        absent = torch.cat([torch.zeros_like(drawn[:, :, :1]), ~drawn], dim=2)
        weights = scores.masked_fill(absent, float("-inf")).softmax(dim=-1)
        fused: Tensor = (weights[..., None] * parts).sum(dim=2)
        return fused


def run_with(tower: nn.Module, own: nn.ModuleList, other: nn.Module, pixels: Tensor, window: int) -> Tensor:
    """Run the tower with its adapters `own` replaced by `other`.

    If the tower uses gradient checkpointing, so does this, but over all layers of `window` pictures at once: the
    replaced adapters are no longer in place when torch recomputes a single layer.
    """
    names = {id(parameter): name for name, parameter in own.named_parameters()}
    swapped: dict[str, Tensor] = {
        name: other.get_parameter(names[id(parameter)])
        for name, parameter in tower.named_parameters()
        if id(parameter) in names
    }
    transformer: nn.Module = tower.transformer  # type: ignore[assignment]
    if not getattr(transformer, "grad_checkpointing", False):
        result: Tensor = functional_call(tower, swapped, (pixels,))
        return result

    def run(pixels: Tensor) -> Tensor:
        tower.set_grad_checkpointing(False)  # type: ignore[operator]
        try:
            inner: Tensor = functional_call(tower, swapped, (pixels,))
        finally:
            tower.set_grad_checkpointing(True)  # type: ignore[operator]
        return inner

    return torch.cat([checkpoint(run, part, use_reentrant=False) for part in pixels.split(window)])


def distil(student: Tensor, teacher: Tensor, told: Tensor) -> Tensor:
    """Return the mean KL(teacher ‖ student) of logits [B,C] over the clips where `told`, bool [B], is true.

    No gradient reaches the teacher.
    """
    wanted = functional.log_softmax(teacher.detach().float(), dim=-1)
    found = functional.log_softmax(student.float(), dim=-1)
    return mean_of(functional.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=-1), told)


def mean_of(losses: Tensor, told: Tensor) -> Tensor:
    """Return the mean of the losses [B] where `told`, or 0 if nowhere; always part of the graph, as DDP requires."""
    return torch.where(told, losses, 0.0).sum() / told.sum().clamp(min=1)
