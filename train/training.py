"""Training the light parts of a method on features of its frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .features import FeatureSet
from .methods import Method


@dataclass(frozen=True)
class TrainSettings:
    """How to train: SGD with momentum as in the paper; learning rate, its cosine decay and smoothing are our choice.

    balance: 0 draws clips as they come, 1 draws all classes equally often, between them in between.
    shift: clips are moved by up to this many frames, their edges repeated as the runtime pads a filling window.
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    balance: float = 0.5
    shift: int = 3
    seed: int = 0


def train(
    method: Method,
    sources: list[tuple[FeatureSet, float]],
    settings: TrainSettings,
    progress: Callable[[int, float], object],
) -> None:
    """Train every parameter of `method` that is not frozen, in place.

    sources: feature sets with the share of each batch they fill; an epoch sees as many clips as there are.
    progress: called after each epoch with its number (from 1) and its mean loss.
    """
    torch.manual_seed(settings.seed)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    pools = [
        (source.features, source.labels, _sampling_odds(source.labels, len(method.classes), settings.balance))
        for source, _ in sources
    ]
    shares = torch.tensor([share for _, share in sources], dtype=torch.float64)
    counts = (settings.batch * shares / shares.sum()).round().int().tolist()
    steps = max(1, sum(len(labels) for _, labels, _ in pools) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=settings.epochs * steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    for epoch in range(1, settings.epochs + 1):
        method.train()
        total = 0.0
        for _ in range(steps):
            drawn = [_draw(*pool, count, settings.shift) for pool, count in zip(pools, counts, strict=True)]
            features = torch.cat([features for features, _ in drawn])
            labels = torch.cat([labels for _, labels in drawn])
            loss = functional.cross_entropy(method.logits(features), labels, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        progress(epoch, total / steps)
    method.eval()


def _draw(features: Tensor, labels: Tensor, odds: Tensor, count: int, shift: int) -> tuple[Tensor, Tensor]:
    """Features float32 [count,T,D] of random clips in random views, shifted in time, and their labels."""
    index = torch.multinomial(odds, count, replacement=True)
    view = torch.randint(features.shape[0], (count,))
    window = features.shape[2]
    frames = torch.arange(window) + torch.randint(-shift, shift + 1, (count, 1))
    picked = features[view[:, None], index[:, None], frames.clamp(0, window - 1)]
    return picked.float(), labels[index]


def _sampling_odds(labels: Tensor, classes: int, balance: float) -> Tensor:
    """Weights [N] with which classes are drawn in proportion to count^(1 − balance)."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1).double()
    return counts[labels] ** -balance
