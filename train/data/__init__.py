"""Labelled clips to train and test on. Every data set is one module; all look alike through `ClipSet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""T, the number of frames sampled from a clip."""


class ClipSet(Protocol):
    """Labelled clips of aligned faces.

    classes: names of the classes. labels: int64 [N], indices into `classes`.
    groups: per clip the person or film it shows, or None; clips of one group are not divided between sets.
    tremble: how much unsteadiness augmentation should add (0 for real motion, 1 for repeated stills).
    fingerprint: hex digest of what the frames depend on; features are stored under it.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: Sequence[str | None]
    tremble: float
    fingerprint: str

    def __len__(self) -> int: ...

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """RGB frames [T,S,S,3] of clip `index`, T = `WINDOW`, square.

        Without `rng` the test choice of frames (the centre of each of T segments), the same at every call; with it the
        training choice (a random frame of each segment) where a clip has more than T frames.
        """
        ...
