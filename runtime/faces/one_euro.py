"""The One-Euro filter for landmarks: crops neither jitter while the head is still nor lag when it moves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .detection import Face, GivenFace
from .optical_flow import SimilarityMotion

_STILL = 0.2  # hertz, the cutoff for a face at rest: lower is steadier
_SPEED = 5.0  # hertz by which the cutoff rises per face size a second: higher lags less
_SPEED_CUTOFF = 1.0  # hertz, for the speed itself
_SHORTEST = 1e-3  # seconds between two updates; time stamps are no finer
_LONGEST_GAP = 0.5  # seconds without the face after which the filter starts afresh


class LandmarkFilter:
    """The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) for landmarks, centre and size of one face.

    Each point has its own cutoff, which rises with its speed. Speeds are in face sizes per second, so near and far
    faces are treated alike, and time is media time, so any sampling rate works. Known motion (`carry`) shifts the
    filter's state and is not filtered; only the rest is. A face that moves evenly without `carry` lags by at most 1 /
    (2π · 5) = 0.032 face sizes.
    """

    def __init__(self, face: Face, time: float) -> None:
        self._begin(face, time)

    def _begin(self, face: Face, time: float) -> None:
        self.face, self._time = face, time
        self._points = _points_of(face)
        self._speeds = np.zeros_like(self._points)

    def update(self, face: Face, time: float) -> Face:
        """Filter the face detected at `time` (seconds, rising). A given box stays as it is."""
        elapsed = time - self._time
        if not _SHORTEST <= elapsed <= _LONGEST_GAP:
            self._begin(face, time)
            return face
        points = _points_of(face)
        speeds = (points - self._points) / (max(face.size, 1.0) * elapsed)
        self._speeds += _share(_SPEED_CUTOFF, elapsed) * (speeds - self._speeds)
        cutoffs = _STILL + _SPEED * np.linalg.norm(self._speeds, axis=1, keepdims=True)
        self._points += _share(cutoffs, elapsed) * (points - self._points)
        self._time = time
        (x, y), (width, height) = self._points[5:].tolist()
        box = face.box if isinstance(face, GivenFace) else (x - width / 2, y - height / 2, width, height)
        self.face = replace(face, box=box, landmarks=self._points[:5].astype(np.float32))
        return self.face

    def carry(self, motion: SimilarityMotion) -> Face:
        """Move the face and the filter's state by a known motion since the last image."""
        self._points[:6] = motion.points(self._points[:6])
        self._points[6] *= motion.scale
        self.face = motion.face(self.face)
        return self.face


def _points_of(face: Face) -> NDArray[np.float64]:
    """Return the landmarks, the box's centre, and its width and height: [7,2]."""
    x, y, width, height = face.box
    return np.concatenate([face.landmarks.astype(np.float64), [(x + width / 2, y + height / 2), (width, height)]])


def _share(cutoff: NDArray[np.float64] | float, elapsed: float) -> NDArray[np.float64]:
    """Return the weight of the new value in a first-order low-pass sampled every `elapsed` seconds."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * elapsed * np.asarray(cutoff))), np.float64)
