"""Fast downscaling of images without aliasing."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray


def shrink(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize an image [H,W,C] to `width` × `height` pixels; a smaller one is enlarged by interpolation.

    It is halved as often as possible, then interpolated. OpenCV's area filter takes two to seven times as long; it
    suppresses stripes one pixel wide better if the sizes are no powers of two apart, which does not matter for faces.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        image = _halve(image)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def average_blocks(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink an image [H,W,C], whose sides are multiples of `factor`, by that factor; fast if it is even.

    An image smaller than a block becomes one pixel.
    """
    while factor % 2 == 0:
        image, factor = _halve(image), factor // 2
    if factor == 1:
        return image
    size = max(1, image.shape[1] // factor), max(1, image.shape[0] // factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def cover(low: float, high: float, size: int, step: int) -> tuple[int, int]:
    """Return begin and end of the whole steps, at least one, that cover `low` to `high`, clipped to `size`."""
    steps = max(1, size // step)
    first = min(max(math.floor(low / step), 0), steps - 1)
    return first * step, min(max(math.ceil(high / step), first + 1), steps) * step


def _halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2×2 pixels; approximately, if a side is odd."""
    size = max(1, image.shape[1] // 2), max(1, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
