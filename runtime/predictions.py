"""What the runtime says: one row per track and sampled frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["warming", "steady"]


@dataclass(frozen=True)
class Prediction:
    """The expression of one face at one moment, read from the window that ends there.

    source: name of the source, without credentials. frame: index in the source, from 0. time: media time, seconds.
    track_id: which face, per source. box: x, y, width, height in pixels of the source.
    probabilities: float32 [C], sums to 1, in the order of `classes`.
    state: "warming" while the window is not filled and its beginning is padded, then "steady".
    """

    source: str
    frame: int
    time: float
    track_id: int
    box: tuple[float, float, float, float]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    state: State

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """Its probability, 0..1."""
        return float(self.probabilities.max())
