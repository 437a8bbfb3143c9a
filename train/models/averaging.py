"""A moving average of a model's weights, which generalises better than the last of them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of `module` that follows it at every `update_parameters(module)`.

    It averages over about 1/(1 − decay) steps; over the last tenth of them at first, to forget the beginning.
    Running statistics are averaged as well.
    """

    def follow(averaged: PARAM_LIST, current: PARAM_LIST, steps: Tensor | int) -> None:
        weight = max(10 / (10 + int(steps)), 1 - decay)
        get_ema_multi_avg_fn(1 - weight)(averaged, current, steps)  # of all at once: one by one they took far longer

    return AveragedModel(module, multi_avg_fn=follow, use_buffers=True)
