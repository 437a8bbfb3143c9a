"""The ring buffer of features behind each prediction, indexed by time."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError
from ..predictions import BRIDGED


class FeatureWindow:
    """The latest features of one track. Each frame is encoded only once, since overlapping windows share features.

    length: T, features that the head reads. seconds: time they cover. step: seconds between sampled frames.

    One missing sample is bridged by its neighbour; a longer gap restarts the window. Samples that were skipped although
    the face was there (`missed`) are bridged as well, up to half the window.
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
        """Whether the features do not yet cover the window, so that its beginning is padded with the oldest."""
        if not self._ring:
            return True
        covered = self._ring[-1][0] - self._ring[0][0] + self._seconds / self._length
        return covered < self._seconds - self._step / 2

    def stack(self) -> NDArray[np.float32]:
        """Return T features [T,D], evenly spaced in time up to the newest; each is the nearest one available."""
        ring, spacing = list(self._ring), self._seconds / self._length
        chosen, index = [], 0
        for place in range(self._length - 1, -1, -1):
            wanted = ring[-1][0] - spacing * place
            while index + 1 < len(ring) and abs(ring[index + 1][0] - wanted) < abs(ring[index][0] - wanted):
                index += 1
            chosen.append(ring[index][1])
        return np.array(chosen)


def check_sampling(window: float | None, fps: float | None) -> None:
    """Raise ParameterError for a window (seconds) or sampling rate that is impossible; None is ignored."""
    if window is not None and not 0 < window <= 60:
        raise ParameterError("window", f"{window:g} s must be above 0 and at most 60 seconds")
    if fps is not None and not 0 < fps <= 240:
        raise ParameterError("fps", f"{fps:g} must be above 0 and at most 240 frames per second")
    if window is not None and fps is not None and window * fps < 2:
        raise ParameterError("window", f"{window:g} s at {fps:g} frames per second: it must hold at least two")
