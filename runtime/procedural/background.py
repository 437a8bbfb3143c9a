"""The background of the scene."""

from __future__ import annotations

import cv2
import numpy as np

from .identity import Identity
from .pen import Image


def draw_background(identity: Identity, height: int, width: int) -> Image:
    """Return the scene behind the person, uint8 RGB [height,width,3]."""
    rng = np.random.default_rng(identity.seed)
    first, second = (np.array(colour) for colour in identity.backdrop)
    if identity.background == "plain":
        small = np.broadcast_to(first, (2, 2, 3))
    elif identity.background == "gradient":
        small = np.stack([first, second])[:, None] * np.ones((1, 2, 1))
    elif identity.background == "noise":
        small = first + rng.normal(0, 22, (24, 24, 1))
    else:
        small = first + rng.uniform(0, 1, (5, 6, 1)) ** 2 * (second - first) + rng.normal(0, 7, (5, 6, 3))
    picture = np.clip(small, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
