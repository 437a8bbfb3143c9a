"""Labelled clips to train and test on. Every data set is one module; all look alike through `ClipSet`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

WINDOW = 16
"""T, the number of frames sampled from a clip."""


class ClipSet(Protocol):
    """Labelled clips of aligned faces.

    labels: int64 [N], indices into `EXPRESSIONS`.
    tremble: how much unsteadiness augmentation should add (0 for real motion, 1 for repeated stills).
    """

    labels: NDArray[np.int64]
    tremble: float

    def __len__(self) -> int: ...

    def frames(self, index: int) -> NDArray[np.uint8]:
        """RGB frames [T,H,W,3] of clip `index`; the same at every call."""
        ...
