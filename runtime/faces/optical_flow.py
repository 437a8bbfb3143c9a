"""Where faces went between two pictures: sparse optical flow, robust to points that are lost or not on the face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import cv2
import numpy as np
from numpy.typing import NDArray

from .detection import Box, Face
from .scaling import average_blocks, cover

_FACE = 64  # pixels of a face in the small pictures that are compared, about; never enlarged
_SIDE = 4  # points along each side of the grid
_REACH = 0.6  # share of the box that the grid spans: the face's inside, not what lies behind it
_AROUND, _NEEDED = 0.4, 0.25  # of a box's longer side, at each of its sides: kept of a picture, and the least of it
_FEWEST = 6  # points that must agree
_RETURN = 1.0  # pixels of the small picture by which a point may miss its start when followed back
_WINDOW, _LEVELS = (11, 11), 3  # of the pyramid: steps of two fifths of a face are found
_GRID = (0.5 + _REACH * np.linspace(-0.5, 0.5, _SIDE)).astype(np.float32)
_UNIT_GRID = np.stack(np.meshgrid(_GRID, _GRID), axis=-1).reshape(-1, 2)
"""Points [N,2] of the grid in a box at the origin with sides of 1."""
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 5, 0.03)

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom lie outside."""


@dataclass(frozen=True)
class SimilarityMotion:
    """A shift (x, y), in pixels, of what then grows `scale` times about its `centre`."""

    centre: tuple[float, float]
    shift: tuple[float, float]
    scale: float = 1.0

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points [N,2], moved along."""
        return np.asarray(points * self.scale + self._offset, np.float64)

    def face(self, face: Face) -> Face:
        """The face, moved along."""
        x, y, width, height = face.box
        right, down = self._offset
        box = (x * self.scale + right, y * self.scale + down, width * self.scale, height * self.scale)
        return replace(face, box=box, landmarks=self.points(face.landmarks).astype(np.float32))

    @property
    def _offset(self) -> tuple[float, float]:
        """Where a point at 0, 0 goes."""
        rest = 1 - self.scale
        return self.centre[0] * rest + self.shift[0], self.centre[1] * rest + self.shift[1]


@dataclass(frozen=True)
class _Part:
    """What a picture shows in a place, grey, and `zoom` times smaller."""

    place: Rectangle
    zoom: int
    grey: NDArray[np.uint8]

    @staticmethod
    def around(box: Box, image: NDArray[np.uint8]) -> _Part:
        """Of an RGB image [H,W,3], with room for the box to move."""
        zoom = _zoom(box)
        return _Part.cut(image, _around(box, _AROUND, zoom, image.shape), zoom)

    @staticmethod
    def cut(image: NDArray[np.uint8], place: Rectangle, zoom: int) -> _Part:
        left, top, right, bottom = place
        grey = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2GRAY)  # first: one channel shrinks faster
        return _Part(place, zoom, average_blocks(np.asarray(grey, np.uint8), zoom))

    def shows(self, box: Box, shape: tuple[int, ...]) -> bool:
        """Whether the box, and enough around it, can be seen well, in a picture of the shape [H,W,3]."""
        left, top, right, bottom = self.place
        x0, y0, x1, y1 = _around(box, _NEEDED, self.zoom, shape)
        return (
            left <= x0 and top <= y0 and x1 <= right and y1 <= bottom and 2 * abs(_zoom(box) - self.zoom) <= self.zoom
        )


class MedianFlow:
    """Follows boxes from picture to picture by Median Flow (Kalal, Mikolajczyk, Matas 2010, "Forward-Backward Error").

    A grid of points inside each box is followed by pyramidal Lucas–Kanade, forth and back. Points that do not return to
    where they began are dropped, and so are those inside another box, for they may lie on the person in front. The
    median shift of the others moves the box, the median change of the distances between them scales it. What is
    compared is grey and small, and shows a box and a little around it; of one picture it is kept.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []  # of the last picture
        self._shape: tuple[int, ...] = ()

    def follow(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[SimilarityMotion | None]:
        """How each box of the picture last seen moved until this one, RGB [H,W,3]; None where that cannot be told.

        It can be told of those boxes that were to be kept (`keep`), in pictures of the same size.
        """
        before, self._parts = self._parts, []
        if self._shape != image.shape or not boxes:
            return [None] * len(boxes)
        self._parts = [_Part.cut(image, part.place, part.zoom) for part in before]
        sides = np.array(boxes, np.float32)[:, None]
        corners, sizes = sides[..., :2], sides[..., 2:]
        grids = _UNIT_GRID * sizes + corners
        clear = ~_inside_another(grids, corners, corners + sizes)
        motions = []
        for number, (box, grid, free) in enumerate(zip(boxes, grids, clear, strict=True)):
            part = _find(before, box, image.shape, number)
            motions.append(None if part is None else _median_motion(box, grid, free, before[part], self._parts[part]))
        return motions

    def keep(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> None:
        """What is needed to follow boxes from this picture, RGB [H,W,3], which was the last to `follow` in, if any."""
        parts, self._parts, self._shape = self._parts, [], image.shape
        for number, box in enumerate(boxes):
            part = _find(parts, box, image.shape, number)
            self._parts.append(_Part.around(box, image) if part is None else parts[part])


def _flow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points [N,2] of one picture are in another, and whether they were found [N]."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty_like(points), winSize=_WINDOW, maxLevel=_LEVELS, criteria=_STEPS
    )
    return np.asarray(there, np.float32), np.asarray(found).ravel() > 0


def _median_motion(
    box: Box, grid: NDArray[np.float32], clear: NDArray[np.bool_], last: _Part, now: _Part
) -> SimilarityMotion | None:
    """Of a box with a grid of points [N,2], of which those count that are `clear` [N]; None where it cannot be told."""
    corner = np.array(last.place[:2], np.float32)
    start = (grid - corner) / np.float32(last.zoom)
    there, found = _flow(last.grey, now.grey, start)
    back, found_back = _flow(now.grey, last.grey, there)
    error = np.abs((back - start).view(np.complex64))[:, 0]  # the lengths of the vectors
    good = found & found_back & clear & (error < _RETURN) & (error <= _median(error))
    count = int(np.count_nonzero(good))
    if count < _FEWEST:
        return None
    start, there = start[good], there[good]
    shifts = there - start
    shift = _median(shifts)
    if _median(np.abs(shifts - shift).ravel()) * last.zoom > 0.05 * max(box[2:]):  # the points went different ways
        return None
    places = np.stack([start, there]).view(np.complex64)[..., 0]  # absolute values of differences: distances
    first, second = _pairs(count)
    before, after = np.abs(places[:, first] - places[:, second])
    scale = float(_median(after / np.maximum(before, 1e-6)))
    if not 0.8 < scale < 1.25:  # between two frames of a video, no head does this
        return None
    centre = box[0] + box[2] / 2, box[1] + box[3] / 2
    # The points' own mean lies beside the box's centre when some were dropped.
    x, y = (start.sum(axis=0) * (last.zoom / count) + corner).tolist()
    lever = (centre[0] - x) * (scale - 1), (centre[1] - y) * (scale - 1)
    across, down = (shift * last.zoom).tolist()
    return SimilarityMotion(centre, (across + lever[0], down + lever[1]), scale)


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along the first axis. NumPy's own takes ten times as long for so few: this runs for every face of every frame."""
    middle = len(values) // 2
    ordered = np.sort(values, axis=0)
    return np.asarray(ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


@cache
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of all pairs of so many points."""
    return np.triu_indices(count, 1)


def _inside_another(
    grids: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which points [B,P,2] of boxes, whose corners are [B,1,2], lie in another box: [B,P]."""
    points = grids[:, :, None]
    inside = np.all((points >= low[:, 0]) & (points <= high[:, 0]), axis=-1)
    inside[np.arange(len(grids)), :, np.arange(len(grids))] = False
    return np.asarray(inside.any(axis=-1))


def _find(parts: Sequence[_Part], box: Box, shape: tuple[int, ...], likely: int) -> int | None:
    """Index of a part, of a picture of the shape [H,W,3], that shows the box; the likely one is looked at first."""
    order = chain(range(likely, min(likely + 1, len(parts))), range(len(parts)))
    return next((index for index in order if parts[index].shows(box, shape)), None)


def _zoom(box: Box) -> int:
    """How many times smaller a face is looked at, a power of two, for pictures are halved fast."""
    return 1 << max(0, round(math.log2(max(*box[2:], 1.0) / _FACE)))


def _around(box: Box, share: float, zoom: int, shape: tuple[int, ...]) -> Rectangle:
    """A box with `share` of its longer side around it, in steps of `zoom`, inside a picture of the shape [H,W,3]."""
    x, y, width, height = box
    margin = share * max(width, height)
    left, right = cover(x - margin, x + width + margin, shape[1], zoom)
    top, bottom = cover(y - margin, y + height + margin, shape[0], zoom)
    return left, top, right, bottom
