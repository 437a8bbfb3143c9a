"""Where faces went between two pictures: sparse optical flow, robust to points that are lost or not on the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .detection import Box, Face

_WIDTH = 320  # of the pictures that are compared, pixels
_SIDE = 4  # points along each side of the grid
_REACH = 0.6  # share of the box that the grid spans: the face's inside, not what lies behind it
_FEWEST = 6  # points that must agree
_RETURN = 1.0  # pixels of the small picture by which a point may miss its start when followed back
_WINDOW, _LEVELS = (11, 11), 3  # of the pyramid: steps up to half the picture are found
_UNIT_GRID = np.stack(np.meshgrid(*[0.5 + _REACH * np.linspace(-0.5, 0.5, _SIDE)] * 2), axis=-1).reshape(-1, 2)
"""Points [N,2] of the grid in a box at the origin with sides of 1."""
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 5, 0.03)


@dataclass(frozen=True)
class SimilarityMotion:
    """A shift (x, y), in pixels, of what then grows `scale` times about its `centre`."""

    centre: tuple[float, float]
    shift: tuple[float, float]
    scale: float = 1.0

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points [N,2], moved along."""
        centre = np.array(self.centre)
        return np.asarray((points - centre) * self.scale + centre + self.shift, np.float64)

    def face(self, face: Face) -> Face:
        """The face, moved along."""
        x, y, width, height = face.box
        ((left, top),) = self.points(np.array([[x, y]])).tolist()
        landmarks = self.points(face.landmarks.astype(np.float64)).astype(np.float32)
        return replace(face, box=(left, top, width * self.scale, height * self.scale), landmarks=landmarks)


class MedianFlow:
    """Follows boxes from picture to picture by Median Flow (Kalal, Mikolajczyk, Matas 2010, "Forward-Backward Error").

    A grid of points inside each box is followed by pyramidal Lucas–Kanade, forth and back. Points that do not return to
    where they began are dropped, and so are those inside another box, for they may lie on the person in front. The
    median shift of the others moves the box, the median change of the distances between them scales it. The pictures
    are grey and 320 pixels wide; one is kept.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None
        self._shape: tuple[int, ...] = ()

    def follow(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[SimilarityMotion | None]:
        """How each box of the previous picture moved until this one, RGB [H,W,3]; None where that cannot be told.

        Nothing can be told at the first picture, nor where the size of the pictures changes.
        """
        small, before = _small_grey(image), self._last
        unchanged = self._shape == image.shape
        self._last, self._shape = small, image.shape
        if before is None or not unchanged or not boxes:
            return [None] * len(boxes)
        zoom = image.shape[1] / small.shape[1]
        grids = [_grid(box) for box in boxes]
        clear = np.ones((len(boxes), _SIDE * _SIDE), bool)
        for index, grid in enumerate(grids):
            for other, box in enumerate(boxes):
                if other != index:
                    clear[index] &= ~_inside(grid, box)
        start = (np.concatenate(grids) / zoom).astype(np.float32)
        there, found = _flow(before, small, start)
        back, found_back = _flow(small, before, there)
        error = np.hypot(*(back - start).T)
        good = found & found_back & (error < _RETURN) & clear.ravel()
        count = clear.shape[1]
        motions: list[SimilarityMotion | None] = []
        for index, box in enumerate(boxes):
            part = slice(index * count, (index + 1) * count)
            kept = good[part] & (error[part] <= _median(error[part]))
            motions.append(_median_motion(box, start[part][kept] * zoom, there[part][kept] * zoom))
        return motions


def _flow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points [N,2] of one picture are in another, and whether they were found [N]."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty_like(points), winSize=_WINDOW, maxLevel=_LEVELS, criteria=_STEPS
    )
    return np.asarray(there, np.float32), np.asarray(found).ravel() > 0


def _median_motion(box: Box, start: NDArray[np.float32], there: NDArray[np.float32]) -> SimilarityMotion | None:
    if len(start) < _FEWEST:
        return None
    shifts = there - start
    shift = _median(shifts)
    size = max(box[2], box[3])
    if _median(np.abs(shifts - shift).ravel()) > 0.05 * size:  # the points went different ways
        return None
    first, second = _pairs(len(start))
    before, after = (points.view(np.complex64).ravel() for points in (start, there))  # absolute values: lengths
    lengths = np.maximum(np.abs(before[first] - before[second]), 1e-6)
    scale = float(_median(np.abs(after[first] - after[second]) / lengths))
    if not 0.8 < scale < 1.25:  # between two frames of a video, no head does this
        return None
    centre = box[0] + box[2] / 2, box[1] + box[3] / 2
    # The points' own mean lies beside the box's centre when some were dropped.
    lever = (np.array(centre) - start.mean(axis=0)) * (scale - 1)
    return SimilarityMotion(centre, (float(shift[0] + lever[0]), float(shift[1] + lever[1])), scale)


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along the first axis. NumPy's own takes ten times as long for so few: this runs for every face of every frame."""
    middle = len(values) // 2
    ordered = np.sort(values, axis=0)
    return np.asarray(ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _grid(box: Box) -> NDArray[np.float64]:
    return np.asarray(_UNIT_GRID * box[2:] + box[:2], np.float64)


@cache
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of all pairs of so many points."""
    return np.triu_indices(count, 1)


def _inside(points: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    x, y, width, height = box
    return np.asarray(((points >= (x, y)) & (points <= (x + width, y + height))).all(axis=1), np.bool_)


def _small_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # first, since one channel shrinks faster than three
    if width > _WIDTH:
        grey = cv2.resize(grey, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, dtype=np.uint8)
