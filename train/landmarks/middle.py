"""What reads pictures of landmarks beside the frames in training, and what the frames learn from the two together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

KINDS = 2
"""Pictures of a frame: landmarks, and regions (`draw_pictures`)."""


class Middle(nn.Module):
    """Adapters of its own for each kind of picture in the same frozen tower, and a gate that fuses with the frames.

    sets: adapters alike in kind to the tower's own, for each of `KINDS`. width: D.
    The gate is a softmax over frames and pictures, of each frame on its own; at first it gives all of them one weight.
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
        """Features float32 [B,T,KINDS,D] of length 1 of pictures uint8 [B,T,KINDS,S,S,3].

        tower: with the adapters `own` in it, which are not read. pixels_of: uint8 [N,S,S,3] → what the tower reads.
        """
        kinds = [
            run_with(tower, own, adapters, pixels_of(pictures[:, :, kind].flatten(0, 1)), pictures.shape[1])
            for kind, adapters in enumerate(self.adapters)
        ]
        features = torch.stack(kinds, dim=1).unflatten(0, pictures.shape[:2])
        return functional.normalize(features.float(), dim=-1)

    def fuse(self, frames: Tensor, features: Tensor, drawn: Tensor) -> Tensor:
        """Features [B,T,D] of frames [B,T,D] and pictures [B,T,KINDS,D] together; pictures not `drawn`, a bool
        [B,T,KINDS], do not count."""
        parts = torch.cat([frames[:, :, None], features], dim=2)
        scores = self.gate(parts.flatten(2)).float()
        absent = torch.cat([torch.zeros_like(drawn[:, :, :1]), ~drawn], dim=2)
        weights = scores.masked_fill(absent, float("-inf")).softmax(dim=-1)
        fused: Tensor = (weights[..., None] * parts).sum(dim=2)
        return fused


def run_with(tower: nn.Module, own: nn.ModuleList, other: nn.Module, pixels: Tensor, window: int) -> Tensor:
    """Run the tower with its adapters `own` replaced by `other`.

    Where the tower computes activations twice to save memory, so does this, but for all layers of `window` pictures
    together: what is swapped in is no longer there when torch comes to a single layer again.
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
    """KL(teacher ‖ student), a scalar, of logits [B,C]: the mean over the clips that are `told`, a bool [B].

    No gradient reaches the teacher.
    """
    wanted = functional.log_softmax(teacher.detach().float(), dim=-1)
    found = functional.log_softmax(student.float(), dim=-1)
    return mean_of(functional.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=-1), told)


def mean_of(losses: Tensor, told: Tensor) -> Tensor:
    """Mean of the losses [B] where `told`, else 0; still part of the graph, which DDP needs."""
    return torch.where(told, losses, 0.0).sum() / told.sum().clamp(min=1)
