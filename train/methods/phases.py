"""Training phases: every method describes its training run as a list of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...runtime.errors import ParameterError

Schedule = Callable[[float], float]
"""Progress of a phase, 0..1 → factor on its learning rates."""


@dataclass(frozen=True)
class Plan:
    """Epochs, learning rates and depths; each method defines how many numbers there are and what they mean."""

    epochs: tuple[int, ...]
    learning_rates: tuple[float, ...]
    depths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Phase:
    """Epochs over which the same parameters are trained.

    step: the step of the method that this is part of; scores are reported, and the best epoch chosen, per step.
    rates: learning rate by module or parameter, named as in `named_parameters()`; all others are frozen.
    enter: called at the beginning to grow, add or share parts of the model.
    trains_text: whether the class matrix changes; if not, it is computed once.
    """

    step: str
    epochs: int
    rates: Mapping[str, float]
    schedule: Schedule
    enter: Callable[[], object] = lambda: None
    trains_text: bool = True

    def group_of(self, name: str) -> str | None:
        """Return the key of `rates` that covers a parameter or buffer; None for a frozen one."""
        return next((part for part in self.rates if name == part or name.startswith(f"{part}.")), None)


def warm_cosine(progress: float) -> float:
    """Return the factor of a schedule with 10 % linear warm-up, then cosine decay to zero."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def two_drops(progress: float) -> float:
    """Return the factor of DFER-CLIP's schedule: ×0.1 at 3/5 and again at 4/5 (epochs 30 and 40 of 50)."""
    return 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01


def adapt_plan(default: Plan, epochs: tuple[int, ...], rates: tuple[float, ...], depths: tuple[int, ...]) -> Plan:
    """Return the method's default plan with the user's values; empty tuples keep the default.

    Raises ParameterError if there are not as many numbers as the method takes.
    """
    for parameter, given, wanted in (
        ("epochs", epochs, default.epochs),
        ("learning_rate", rates, default.learning_rates),
        ("depth", depths, default.depths),
    ):
        if given and len(given) != len(wanted):
            shown = ",".join(f"{number:g}" for number in wanted)
            takes = f"takes {len(wanted)} numbers (default {shown})" if wanted else "takes none"
            raise ParameterError(parameter, f"this method {takes}")
    return Plan(epochs or default.epochs, rates or default.learning_rates, depths or default.depths)
