"""Result types: predictions, one per track and sampled frame, and the steps of a stream that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .labels import UNSURE
from .sources.frames import Frame

State = Literal["warmup", "ready"]

BRIDGED = 2.25
"""Longest gap between two samples of one face, in sampling steps: one sample may be missing."""
POOR = 0.25
"""Quality below which a prediction counts as poor."""


def longest_gap(step: float) -> float:
    """Return the seconds without a prediction after which a face starts afresh, for samples `step` seconds apart."""
    return max(1.0, BRIDGED * step)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The expression of one face at one moment, read from the window that ends there. Compares by value.

    source: name of the source, without credentials. frame: index in the source, from 0. time: media time, seconds.
    track_id: number of the face in its source, or in its photograph. box: x, y, width, height in pixels
    of the picture as it is read; with `rotate`, of the rotated one.
    probabilities: float32 [C], sums to 1, in the order of `classes`.
    state: "warmup" while the window is not full and its beginning is padded, then "ready"; photographs are "ready".
    label: one of `classes`, by default the most probable (smoothing may hold an earlier one for a while), or `UNSURE`
    if even that is too improbable.
    quality: how well the face can be seen, 0..1 (`faces.quality`); None if not measured.
    file: for images, the file name (see `Frame`), else "".

    >>> import numpy as np
    >>> from dfer.runtime import Prediction
    >>> read = Prediction("a.mp4", 3, 0.125, 1, (90, 60, 80, 80), np.float32([0.25, 0.75]), ("joy", "fear"), "ready")
    >>> read.label, read.confidence, read.poor
    ('fear', 0.75, False)
    """

    source: str
    frame: int
    time: float
    track_id: int
    box: tuple[float, float, float, float]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    state: State
    label: str = ""
    quality: float | None = None
    file: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.classes[int(self.probabilities.argmax())])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return self._key() == other._key() and np.array_equal(self.probabilities, other.probabilities)

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        moment = (self.source, self.frame, self.time, self.track_id, self.box)
        return (*moment, self.classes, self.state, self.label, self.quality, self.file)

    @property
    def confidence(self) -> float:
        """The label's probability, 0..1; if the label is unsure, the highest probability."""
        if self.label == UNSURE:
            return float(self.probabilities.max())
        return float(self.probabilities[self.classes.index(self.label)])

    @property
    def poor(self) -> bool:
        """Whether the face is too small, blurred, turned or poorly detected for a reliable prediction."""
        return self.quality is not None and self.quality < POOR

    @property
    def entropy(self) -> float:
        """Entropy of the probabilities in nats: 0 for one certain class, ln C when all are equal."""
        certain = self.probabilities[self.probabilities > 0].astype(np.float64)
        return max(0.0, float(-(certain * np.log(certain)).sum()))


@dataclass(frozen=True)
class VisibleFace:
    """A face in a frame: its track, its current box, and its latest prediction."""

    track_id: int
    box: tuple[float, float, float, float]
    prediction: Prediction | None


@dataclass(frozen=True)
class Step:
    """One frame of a source, its predictions (none unless the frame was sampled), and all faces in view.

    profiles: tracks that were sampled but not classified because the face is in profile.

    >>> from dfer.runtime import Recognizer, open_source
    >>> with Recognizer() as recognizer:
    ...     *_, last = recognizer.steps(open_source("clip.mp4"))
    >>> [face.track_id for face in last.faces], len(last.predictions), last.profiles
    ([1, 2], 0, ())
    """

    source: str
    frame: Frame
    predictions: tuple[Prediction, ...]
    faces: tuple[VisibleFace, ...]
    profiles: tuple[int, ...] = ()
