"""Find exact, near and mirrored copies among thousands of aligned photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

ALIKE = 0.95
"""Minimum correlation of two copies of one photograph. Among 1,500 aligned web photographs, all pairs above were copies
when checked by eye (other crops, watermarks, compression); different people reach 0.93."""

SAME = 0.99
"""Minimum correlation of two copies that are said to show different things. Frames of one video with different
expressions reach 0.986."""

Agree = Callable[[NDArray[np.int64], int], NDArray[np.bool_]]
"""Return, bool [P], whether what is said about some crops, by index [P], agrees with what is said about another."""

_SIDE = 32  # pixels of the grey versions that are compared
_ROWS = 1024  # compared with as many others at a time


def find_copies(
    crops: Iterable[NDArray[np.uint8]],
    agree: Agree = lambda ones, other: np.ones(len(ones), np.bool_),
    progress: Callable[[float], object] = lambda _: None,
) -> NDArray[np.int64]:
    """Return, for each aligned crop, uint8 [H,W] or [H,W,3], the index of the first crop that it is a copy of, or its
    own. That crop is no copy itself: what is like a copy need not be like the first.

    crops: taken one at a time. agree: asked about earlier crops and one that is like them, but perhaps not the `SAME`;
    it is no copy of those that it does not agree with. progress: called with the share of comparisons done, 0..1.
    """
    small = _signatures(crops)
    first, starts = np.arange(len(small)), range(0, len(small), _ROWS)
    pairs = [(start, other) for other in starts for start in starts if start <= other]
    for done, (start, other) in enumerate(pairs, 1):
        rows, others = small[start : start + _ROWS], small[other : other + _ROWS]
        mirrored = rows.reshape(-1, _SIDE, _SIDE)[:, :, ::-1].reshape(rows.shape)
        likeness = np.maximum(rows @ others.T, mirrored @ others.T)
        for column in np.flatnonzero((likeness >= ALIKE).any(axis=0)).tolist():
            later = other + column
            if first[later] != later:
                continue
            ones = start + np.flatnonzero(likeness[: later - start, column] >= ALIKE)
            ones = ones[first[ones] == ones]
            copied = ones[(likeness[ones - start, column] >= SAME) | agree(ones, later)]
            if len(copied):
                first[later] = copied[0]
        progress(done / len(pairs))
    return first


def _signatures(crops: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return small grey versions, mean-free and L2-normalised, float32 [N, _SIDE²]: dot products are correlations."""
    tiny = [_shrink(crop) for crop in crops]
    small = np.empty((len(tiny), _SIDE * _SIDE), np.float32)
    for start in range(0, len(tiny), _ROWS):  # without copies of all
        rows = small[start : start + _ROWS]
        rows[:] = tiny[start : start + _ROWS]
        rows -= rows.mean(axis=1, keepdims=True)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return small


def _shrink(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) if crop.ndim == 3 else crop
    return np.asarray(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8).ravel()
