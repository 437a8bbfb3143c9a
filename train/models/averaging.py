"""A moving average of a model's weights, which generalises better than the last of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(module: nn.Module, decay: float, use_buffers: bool = False) -> AveragedModel:
    """A copy of `module` that follows it at every `update_parameters(module)`.

    It averages over about 1/(1 − decay) steps; over the last tenth of them at first, to forget the beginning.
    use_buffers: average what is not learned as well (running statistics), which else is copied.
    """

    def follow(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        weight = (10 / (10 + torch.as_tensor(steps))).clamp(min=1 - decay)
        return averaged + (current - averaged) * weight

    return AveragedModel(module, avg_fn=follow, use_buffers=use_buffers)
