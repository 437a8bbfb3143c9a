"""Alignment: five landmarks → a square crop with eyes, nose and mouth always in the same place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .scaling import average_blocks, cover

TEMPLATE_SIZE = 128
TEMPLATE = np.array([[46.80, 57.54], [81.03, 57.34], [64.03, 77.00], [49.96, 97.05], [78.31, 96.88]], dtype=np.float32)
"""Landmark positions in a 128×128 crop: eyes, nose tip, mouth corners, left to right as seen in the image."""

_CENTRE = TEMPLATE.mean(axis=0, dtype=np.float64).tolist()
_OFFSETS = (TEMPLATE.astype(np.float64) - _CENTRE).tolist()  # of the landmarks, from their mean


def similarity(landmarks: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Return the 2×3 similarity (rotation, uniform scale, shift) that best maps landmarks [5,2] onto the template.

    Closed-form least squares (Umeyama 1991, eqs. 40–42, in two dimensions), scaled to a crop of `size` pixels.
    Degenerate landmarks (all in one point) are mapped to the crop's centre at unit scale.
    """
    # In plain Python: for five points NumPy takes five times as long, for every face of every sampled frame.
    points, zoom = landmarks.tolist(), size / TEMPLATE_SIZE
    left, top = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    spread = along = across = 0.0
    for (x, y), (u, v) in zip(points, _OFFSETS, strict=True):
        x, y = x - left, y - top
        spread += x * x + y * y
        along += x * u + y * v
        across += x * v - y * u
    a, b = (1.0, 0.0) if spread < 1e-6 else (zoom * along / spread, zoom * across / spread)
    return np.array([[a, -b, zoom * _CENTRE[0] - a * left + b * top], [b, a, zoom * _CENTRE[1] - b * left - a * top]])


def resize_crop(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an aligned crop [H,W,3] to [size,size,3]: averaging when it shrinks, interpolating when it grows."""
    if crop.shape[:2] == (size, size):
        return crop
    shrinks = size < min(crop.shape[:2])
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def align(image: NDArray[np.uint8], landmarks: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Cut the face with `landmarks` [5,2] (pixels) out of an RGB image [H,W,3] as a crop [size,size,3].

    Outside the image, the edge is repeated. Faces much larger than the crop are first averaged down by an integer
    factor, so that fine texture does not alias.
    """
    matrix = similarity(landmarks, size)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    factor = int(min(1 / scale, max(image.shape))) if scale > 0 else 1
    halvings = max(0, factor.bit_length() - 2)
    factor = factor >> halvings << halvings  # 2 or 3 times a power of two, since halving is fast
    if factor >= 2:
        image, matrix = _shrink(image, matrix, factor, size)
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, dtype=np.uint8)


def _shrink(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], factor: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Average `factor`×`factor` blocks of the part of the image that the crop covers; adapt the matrix."""
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], dtype=np.float64)
    covered = corners @ cv2.invertAffineTransform(matrix).T
    (low_x, low_y), (high_x, high_y) = (covered.min(axis=0) - factor).tolist(), (covered.max(axis=0) + factor).tolist()
    x0, x1 = cover(low_x, high_x, image.shape[1], factor)
    y0, y1 = cover(low_y, high_y, image.shape[0], factor)
    # crop = matrix · image and image = factor · (small + ½) − ½ + (x0, y0), with pixel centres at integers.
    middle = (factor - 1) / 2
    back = np.array([[factor, 0, x0 + middle], [0, factor, y0 + middle], [0, 0, 1]])
    return average_blocks(image[y0:y1, x0:x1], factor), matrix @ back
