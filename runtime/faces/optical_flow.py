"""Face motion between two images: sparse optical flow, robust to points that are lost or not on the face."""

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

_FACE = 64  # approximate face size, in pixels, in the small images that are compared; never enlarged
_SIDE = 4  # points along each side of the grid
_REACH = 0.6  # share of the box that the grid spans: the inside of the face, without background
_AROUND, _NEEDED = 0.4, 0.25  # margin around a box, relative to its longer side: kept, and least required
_FEWEST = 6  # points that must agree
_RETURN = 1.0  # largest forward-backward error, in pixels of the small image
_WINDOW, _LEVELS = (11, 11), 3  # of the pyramid: finds motions up to two fifths of a face
_GRID = (0.5 + _REACH * np.linspace(-0.5, 0.5, _SIDE)).astype(np.float32)
_UNIT_GRID = np.stack(np.meshgrid(_GRID, _GRID), axis=-1).reshape(-1, 2)
"""Grid points [N,2] in the unit box at the origin."""
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 5, 0.03)

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are exclusive."""


@dataclass(frozen=True)
class SimilarityMotion:
    """A shift (x, y) in pixels and a scaling by `scale` about `centre`."""

    centre: tuple[float, float]
    shift: tuple[float, float]
    scale: float = 1.0

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return points [N,2], moved."""
        return np.asarray(points * self.scale + self._offset, np.float64)

    def face(self, face: Face) -> Face:
        """Return the face, moved."""
        x, y, width, height = face.box
        right, down = self._offset
        box = (x * self.scale + right, y * self.scale + down, width * self.scale, height * self.scale)
        return replace(face, box=box, landmarks=self.points(face.landmarks).astype(np.float32))

    @property
    def _offset(self) -> tuple[float, float]:
        """Where the point (0, 0) goes."""
        rest = 1 - self.scale
        return self.centre[0] * rest + self.shift[0], self.centre[1] * rest + self.shift[1]


@dataclass(frozen=True)
class _Part:
    """A part of an image in greyscale, shrunk `zoom` times."""

    place: Rectangle
    zoom: int
    grey: NDArray[np.uint8]

    @staticmethod
    def around(box: Box, image: NDArray[np.uint8]) -> _Part:
        """Cut from an RGB image [H,W,3], with room for the box to move."""
        zoom = _zoom(box)
        return _Part.cut(image, _around(box, _AROUND, zoom, image.shape), zoom)

    @staticmethod
    def cut(image: NDArray[np.uint8], place: Rectangle, zoom: int) -> _Part:
        left, top, right, bottom = place
        grey = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2GRAY)  # first: one channel shrinks faster
        return _Part(place, zoom, average_blocks(np.asarray(grey, np.uint8), zoom))

    def shows(self, box: Box, shape: tuple[int, ...]) -> bool:
        """Return whether this part of an image of `shape` [H,W,3] shows the box, with margin and at a similar zoom."""
        left, top, right, bottom = self.place
        x0, y0, x1, y1 = _around(box, _NEEDED, self.zoom, shape)
        return (
            left <= x0 and top <= y0 and x1 <= right and y1 <= bottom and 2 * abs(_zoom(box) - self.zoom) <= self.zoom
        )


class MedianFlow:
    """Follows boxes from image to image by Median Flow (Kalal, Mikolajczyk, Matas 2010, "Forward-Backward Error").

    A grid of points inside each box is tracked by pyramidal Lucas–Kanade, forward and backward. Points that do not
    return to their start are dropped, and so are those inside another box, since they may lie on the person in front.
    The median shift of the others moves the box, the median change of the distances between them scales it. Only small
    greyscale parts around the boxes are compared and kept from one image to the next.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []  # of the last image
        self._shape: tuple[int, ...] = ()

    def follow(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[SimilarityMotion | None]:
        """Return how each box moved from the last image to this one, RGB [H,W,3]; None where that is unknown.

        It is known only for boxes passed to `keep`, in images of the same size.
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
        """Keep what is needed to follow boxes from this image, RGB [H,W,3], the last passed to `follow`, if any."""
        parts, self._parts, self._shape = self._parts, [], image.shape
        for number, box in enumerate(boxes):
            part = _find(parts, box, image.shape, number)
            self._parts.append(_Part.around(box, image) if part is None else parts[part])


def _flow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where points [N,2] of one image are in another, and whether they were found [N]."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, np.empty_like(points), winSize=_WINDOW, maxLevel=_LEVELS, criteria=_STEPS
    )
    return np.asarray(there, np.float32), np.asarray(found).ravel() > 0


def _median_motion(
    box: Box, grid: NDArray[np.float32], clear: NDArray[np.bool_], last: _Part, now: _Part
) -> SimilarityMotion | None:
    """Return a box's motion from its grid points [N,2], counting only the `clear` ones [N]; None if unknown."""
    corner = np.array(last.place[:2], np.float32)
    start = (grid - corner) / np.float32(last.zoom)
    there, found = _flow(last.grey, now.grey, start)
    back, found_back = _flow(now.grey, last.grey, there)
    error = np.abs((back - start).view(np.complex64))[:, 0]  # vector lengths
    good = found & found_back & clear & (error < _RETURN) & (error <= _median(error))
    count = int(np.count_nonzero(good))
    if count < _FEWEST:
        return None
    start, there = start[good], there[good]
    shifts = there - start
    shift = _median(shifts)
    if _median(np.abs(shifts - shift).ravel()) * last.zoom > 0.05 * max(box[2:]):  # the points went different ways
        return None
    places = np.stack([start, there]).view(np.complex64)[..., 0]  # so that abs(difference) is a distance
    first, second = _pairs(count)
    before, after = np.abs(places[:, first] - places[:, second])
    scale = float(_median(after / np.maximum(before, 1e-6)))
    if not 0.8 < scale < 1.25:  # no head moves like this between two frames
        return None
    centre = box[0] + box[2] / 2, box[1] + box[3] / 2
    # If points were dropped, their mean is not the box's centre.
    x, y = (start.sum(axis=0) * (last.zoom / count) + corner).tolist()
    lever = (centre[0] - x) * (scale - 1), (centre[1] - y) * (scale - 1)
    across, down = (shift * last.zoom).tolist()
    return SimilarityMotion(centre, (across + lever[0], down + lever[1]), scale)


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median along the first axis. NumPy's takes ten times as long for the few values of a face."""
    middle = len(values) // 2
    ordered = np.sort(values, axis=0)
    return np.asarray(ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


@cache
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of all pairs of so many points."""
    return np.triu_indices(count, 1)


def _inside_another(
    grids: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which points [B,P,2] of boxes, whose corners are [B,1,2], lie in another box: [B,P]."""
    points = grids[:, :, None]
    inside = np.all((points >= low[:, 0]) & (points <= high[:, 0]), axis=-1)
    inside[np.arange(len(grids)), :, np.arange(len(grids))] = False
    return np.asarray(inside.any(axis=-1))


def _find(parts: Sequence[_Part], box: Box, shape: tuple[int, ...], likely: int) -> int | None:
    """Return the index of a part that shows the box, in an image of shape [H,W,3]; the likely one is tried first."""
    order = chain(range(likely, min(likely + 1, len(parts))), range(len(parts)))
    return next((index for index in order if parts[index].shows(box, shape)), None)


def _zoom(box: Box) -> int:
    """Return the factor by which to shrink a face: a power of two, since halving is fast."""
    return 1 << max(0, round(math.log2(max(*box[2:], 1.0) / _FACE)))


def _around(box: Box, share: float, zoom: int, shape: tuple[int, ...]) -> Rectangle:
    """Return a box with a margin of `share` of its longer side, in steps of `zoom`, inside an image's shape [H,W,3]."""
    x, y, width, height = box
    margin = share * max(width, height)
    left, right = cover(x - margin, x + width + margin, shape[1], zoom)
    top, bottom = cover(y - margin, y + height + margin, shape[0], zoom)
    return left, top, right, bottom
