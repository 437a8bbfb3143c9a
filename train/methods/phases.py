"""What is trained when: a training run as a list of phases, which every method makes for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...runtime.errors import ParameterError

Schedule = Callable[[float], float]
"""Progress of a phase, 0..1 → factor on its learning rates."""


@dataclass(frozen=True)
class Plan:
    """How long, how fast and how deep: numbers whose count and meaning are the method's."""

    epochs: tuple[int, ...]
    learning_rates: tuple[float, ...]
    depths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Phase:
    """Epochs over which the same parameters are trained.

    step: the step of the method that this is part of; scores are reported, and the best epoch chosen, per step.
    rates: learning rate by module or parameter, named as in `named_parameters()`; all others are frozen.
    enter: called at the beginning to grow, add or share parts of the model.
    trains_text: whether the class matrix changes; where not, it is computed once.
    """

    step: str
    epochs: int
    rates: Mapping[str, float]
    schedule: Schedule
    enter: Callable[[], object] = lambda: None
    trains_text: bool = True

    def group_of(self, name: str) -> str | None:
        """The key of `rates` that a parameter or buffer falls under; None for a frozen one."""
        return next((part for part in self.rates if name == part or name.startswith(f"{part}.")), None)


def warm_cosine(progress: float) -> float:
    """A tenth of linear warm-up, then a cosine down to zero."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def two_drops(progress: float) -> float:
    """×0.1 at 3/5 and again at 4/5: epochs 30 and 40 of 50, as DFER-CLIP is trained."""
    return 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01


def adapt_plan(default: Plan, epochs: tuple[int, ...], rates: tuple[float, ...], depths: tuple[int, ...]) -> Plan:
    """The method's default plan with what the user set; empty tuples keep the default.

    Raises ParameterError when the count of numbers is not the method's.
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
