"""The ring of features behind each prediction, kept by time."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError
from ..predictions import BRIDGED


class FeatureWindow:
    """The last features of one track; each frame was encoded once, and windows overlap for free.

    length: T, features that the head reads. seconds: time they cover. step: seconds between sampled frames.

    One missing sample is bridged by its neighbour; after a longer gap the window starts anew. Samples that were left
    out although the face was there (`missed`) are bridged as well, up to half the window.
    """

    def __init__(self, length: int, seconds: float, step: float) -> None:
        self._length, self._seconds, self._step = length, seconds, step
        self._ring: deque[tuple[float, NDArray[np.float32]]] = deque(maxlen=int(seconds / step) + 2)

    def push(self, time: float, feature: NDArray[np.float32], missed: int = 0) -> None:
        """Add the feature [D] of the frame at `time` (seconds, rising)."""
        longest = max(BRIDGED * self._step, min((BRIDGED + missed) * self._step, self._seconds / 2))
        if self._ring and time - self._ring[-1][0] > longest:
            self._ring.clear()
        self._ring.append((time, feature))

    @property
    def warmup(self) -> bool:
        """Whether the features do not cover the window yet, so that its beginning is padded with the oldest."""
        if not self._ring:
            return True
        covered = self._ring[-1][0] - self._ring[0][0] + self._seconds / self._length
        return covered < self._seconds - self._step / 2

    def stack(self) -> NDArray[np.float32]:
        """T features [T,D], evenly spaced in time up to the newest; each is the nearest one there is."""
        ring, spacing = list(self._ring), self._seconds / self._length
        chosen, index = [], 0
        for place in range(self._length - 1, -1, -1):
            wanted = ring[-1][0] - spacing * place
            while index + 1 < len(ring) and abs(ring[index + 1][0] - wanted) < abs(ring[index][0] - wanted):
                index += 1
            chosen.append(ring[index][1])
        return np.array(chosen)


def check_sampling(window: float | None, fps: float | None) -> None:
    """Raise ParameterError for seconds and frames per second that no window can have; None is not looked at."""
    if window is not None and not 0 < window <= 60:
        raise ParameterError("window", f"{window:g} s must be above 0 and at most 60 seconds")
    if fps is not None and not 0 < fps <= 240:
        raise ParameterError("fps", f"{fps:g} must be above 0 and at most 240 frames per second")
    if window is not None and fps is not None and window * fps < 2:
        raise ParameterError("window", f"{window:g} s at {fps:g} frames per second: it must hold at least two")
