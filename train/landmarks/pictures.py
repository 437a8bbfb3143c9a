"""Draw landmarks as input for an image tower: lines and dots, and filled regions."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .layouts import LAYOUTS, Part

_FRACTION = 4  # bits of OpenCV's fixed-point coordinates


def move_points(points: NDArray[np.float32], moves: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Transform points [T,P,2], relative to a frame of `side` pixels, to a view's pixels; `moves` as in `View`.

    In a flipped frame, mirrored points swap their indices, so that the left eye is still the left one in the picture.
    """
    pixels = points.astype(np.float64) * side - 0.5
    moved = np.einsum("tij,tpj->tpi", moves[:, :, :2], pixels) + moves[:, None, :, 2]
    flipped = np.linalg.det(moves[:, :, :2]) < 0
    moved[flipped] = moved[flipped][:, LAYOUTS[points.shape[1]].mirror]
    return np.asarray(moved, np.float32)


def draw_pictures(points: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Draw points [T,P,2], in pixels, as RGB pictures [T,2,size,size,3]: landmarks, and the regions they enclose.

    Both pictures of a frame without landmarks (NaN) are black.
    """
    layout = LAYOUTS[points.shape[1]]
    pictures = np.zeros((len(points), 2, size, size, 3), np.uint8)
    for (lines, regions), found in zip(pictures, points, strict=True):
        if not np.isfinite(found).all():
            continue
        fine = np.rint(found.astype(np.float64) * 2**_FRACTION).astype(np.int32)
        for part in layout.regions:
            _fill(regions, fine[list(part.points)], part, max(2, size // 28))
        for part in layout.lines:
            _trace(lines, fine[list(part.points)], part, max(1, size // 90))
    return pictures


def _trace(picture: NDArray[np.uint8], points: NDArray[np.int32], part: Part, width: int) -> None:
    if len(points) > 1:
        cv2.polylines(picture, [points], part.closed, part.colour, width, cv2.LINE_AA, _FRACTION)
    for x, y in points.tolist():
        cv2.circle(picture, (x, y), (2 * width) << (_FRACTION - 1), (255, 255, 255), cv2.FILLED, cv2.LINE_AA, _FRACTION)


def _fill(picture: NDArray[np.uint8], points: NDArray[np.int32], part: Part, width: int) -> None:
    if len(points) == 1:
        x, y = points[0].tolist()
        cv2.circle(picture, (x, y), width << _FRACTION, part.colour, cv2.FILLED, cv2.LINE_AA, _FRACTION)
    elif part.closed:
        cv2.fillPoly(picture, [points], part.colour, cv2.LINE_AA, _FRACTION)
    else:
        cv2.polylines(picture, [points], False, part.colour, width, cv2.LINE_AA, _FRACTION)
