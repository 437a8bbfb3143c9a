"""A moving average of a model's weights, which generalises better than the last weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Return a moving average of `module`, updated by `update_parameters(module)`.

    It averages over about 1/(1 − decay) steps; at first over the last tenth of all steps, to forget the beginning.
    Running statistics are averaged too.
    """

    def follow(averaged: PARAM_LIST, current: PARAM_LIST, steps: Tensor | int) -> None:
        weight = max(10 / (10 + int(steps)), 1 - decay)
        get_ema_multi_avg_fn(1 - weight)(averaged, current, steps)  # all at once, which is much faster

    return AveragedModel(module, multi_avg_fn=follow, use_buffers=True)
