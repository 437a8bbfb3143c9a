"""Post-processing of raw predictions: prior correction, class mapping, smoothing in time, a stable label."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError
from ..labels import UNSURE
from ..predictions import Prediction
from .class_map import ClassMap

MARGIN = 0.1
"""Lead, in probability, at which another class becomes the label at once."""

_REMEMBERED = 60.0
"""Media seconds after which a track without predictions is forgotten."""


class Smoother:
    """Turns the raw predictions of one source into final ones.

    In this order, each step only if enabled:

    1. Prior. The probabilities are corrected for how frequent "neutral" was in training (`correct_prior`).
    2. Classes. They are renamed, merged or dropped (`ClassMap`).
    3. Smoothing, per track, exponential by media time: after Δt seconds the new probabilities have the weight
       1 − exp(−Δt / seconds), so that the result does not depend on the sampling rate.
    4. Label. Another class takes over when it leads the label by `MARGIN`, or when it has led for `seconds` without a
       break, so that a near tie does not flicker. If its probability is below `unsure`, the label is `UNSURE`.

    seconds: the time constant; 0 leaves probabilities as they are, and the label is the most probable class.
    gap: seconds without a prediction after which a track starts afresh; more than the sampling period.
    neutral_prior: share of "neutral" in the training data, between 0 and 1; None corrects nothing.
    names: mapping of the classes; None keeps the model's. unsure: probability below which a label is unsure, 0..1.

    classes: of the final predictions. model_classes: the model's, as given.
    Raises DferError for invalid settings.

    >>> from dataclasses import replace
    >>> import numpy as np
    >>> from dfer.runtime import Prediction, Smoother
    >>> smoother = Smoother(("joy", "fear"), seconds=0.5)
    >>> calm = Prediction("a.mp4", 0, 0.0, 1, (0, 0, 80, 80), np.float32([0.9, 0.1]), ("joy", "fear"), "ready")
    >>> jump = replace(calm, frame=3, time=0.125, probabilities=np.float32([0.1, 0.9]), label="fear")
    >>> [smoother.refine(prediction).label for prediction in (calm, jump)]
    ['joy', 'joy']
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        *,
        seconds: float = 0.0,
        gap: float = 1.0,
        neutral_prior: float | None = None,
        names: ClassMap | None = None,
        unsure: float = 0.0,
    ) -> None:
        check_smoothing(seconds, unsure, neutral_prior)
        self._seconds, self.gap, self._names, self._unsure = seconds, gap, names, unsure
        self._prior = None if neutral_prior is None else _neutral_prior(neutral_prior, classes)
        self.model_classes = classes
        self.classes = classes if names is None else names.classes
        self._changes_nothing = not (seconds or unsure) and self._prior is None and names is None
        self._tracks: dict[int, _Memory] = {}

    def refine(self, prediction: Prediction) -> Prediction:
        """Return the final form of the next prediction of its track."""
        if self._changes_nothing:
            return prediction
        now = np.asarray(prediction.probabilities, dtype=np.float64)
        if self._prior is not None:
            now = correct_prior(now, self._prior)
        if self._names is not None:
            now = self._names.apply(now)
        memory = self._tracks.get(prediction.track_id)
        if memory is None:
            self._forget(prediction.time)
        if memory is None or not 0 <= prediction.time - memory.final.time <= self.gap:
            label = self.classes[int(now.argmax())]
            memory = self._tracks[prediction.track_id] = _Memory(now, prediction)
        else:
            elapsed = prediction.time - memory.final.time
            share = -math.expm1(-elapsed / self._seconds) if self._seconds else 1.0
            memory.smoothed = memory.smoothed + share * (now - memory.smoothed)
            label = self._next_label(memory, prediction.time)
        probabilities = memory.smoothed.astype(np.float32)
        memory.final = replace(prediction, probabilities=probabilities, classes=self.classes, label=label)
        if memory.final.confidence < self._unsure:
            return replace(memory.final, label=UNSURE)
        return memory.final

    def restart(self) -> None:
        """Forget all tracks."""
        self._tracks.clear()

    def _next_label(self, memory: _Memory, time: float) -> str:
        held = memory.final.label
        leader = self.classes[int(memory.smoothed.argmax())]
        if leader == held:
            memory.rival = None
            return held
        if memory.rival != leader:
            memory.rival, memory.since = leader, time
        lead = memory.smoothed.max() - memory.smoothed[self.classes.index(held)]
        if lead < MARGIN and time - memory.since < self._seconds:
            return held
        return leader

    def _forget(self, time: float) -> None:
        for ended in [track for track, memory in self._tracks.items() if abs(time - memory.final.time) > _REMEMBERED]:
            del self._tracks[ended]


@dataclass
class _Memory:
    """The state of one track. rival: the class that leads but is not the label; since: when its lead began."""

    smoothed: NDArray[np.float64]
    final: Prediction
    rival: str | None = None
    since: float = 0.0


def check_smoothing(seconds: float | None, unsure: float | None, neutral_prior: float | None) -> None:
    """Raise ParameterError for settings that are invalid for any model; None is ignored."""
    if seconds is not None and not 0 <= seconds <= 60:
        raise ParameterError("smooth", f"{seconds:g} s must lie between 0 and 60 seconds")
    if unsure is not None and not 0 <= unsure <= 1:
        raise ParameterError("unsure", f"{unsure:g} must lie between 0 and 1")
    if neutral_prior is not None and not 0 < neutral_prior < 1:
        raise ParameterError("neutral_prior", f"{neutral_prior:g} must lie between 0 and 1, both excluded")


def correct_prior(probabilities: NDArray[np.float64], trained: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct probabilities [C] of a model trained on class frequencies `trained` [C] to equal frequencies.

    p(c) / trained(c), renormalised: M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs of a classifier
    to new a priori probabilities", Neural Computation 14 (2002), equation 2.4 with equal new priors.
    """
    corrected = probabilities / trained
    return np.asarray(corrected / corrected.sum())


def _neutral_prior(share: float, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Return class frequencies with `share` for "neutral", the rest split evenly among the others."""
    if "neutral" not in classes or len(classes) < 2:
        raise ParameterError("neutral_prior", f'the model has no class "neutral"; it has {", ".join(classes)}')
    others = (1 - share) / (len(classes) - 1)
    return np.array([share if name == "neutral" else others for name in classes])
