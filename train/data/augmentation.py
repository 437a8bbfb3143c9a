"""Augmentation of clips of aligned faces: crop, flip and light, the same for all frames of a clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


class View(NamedTuple):
    """A view of a clip: frames [T,size,size,3], and the affine transform of each.

    moves: float64 [T,2,3], matrices from pixel coordinates of the clip's frame to those of the view; a flip has a
    negative determinant.
    """

    frames: Frames
    moves: NDArray[np.float64]


Augment = Callable[[Frames, int, np.random.Generator, float], View]
"""(clip [T,H,W,3], size, random generator, jitter) → view"""


def plain_view(frames: Frames, size: int) -> Frames:
    """Resize the clip [T,H,W,3] to [T,size,size,3] and nothing else, as the runtime does."""
    if frames.shape[1:3] == (size, size):
        return frames
    shrinks = size < min(frames.shape[1:3])
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([_uint8(cv2.resize(frame, (size, size), interpolation=interpolation)) for frame in frames])


def augmented_view(frames: Frames, size: int, rng: np.random.Generator, jitter: float = 0.0) -> View:
    """Return a random view of a clip [T,H,W,3].

    One random similarity (scale ±14 %, rotation ±10°, shift ±5 %), flip and change of light applies to the whole clip,
    as does the paper's random crop with scale jitter. Some views then simulate a worse camera (blur, lower resolution,
    noise). `jitter` adds a slow random walk in position, scale and light from frame to frame (0 none, 1 as unsteady as
    a badly tracked face), which gives repeated stills some motion.
    """
    count = len(frames)
    walk = _random_walk(count, rng) * jitter
    angle = np.deg2rad(rng.uniform(-10, 10))
    flip = rng.random() < 0.5
    scale, shift = 1 + rng.uniform(-0.14, 0.14), rng.uniform(-0.05, 0.05, 2)
    curve = _light_curve(rng)
    blur = rng.uniform(0.4, 1.3) if rng.random() < 0.25 else 0.0
    coarse = rng.uniform(0.35, 0.8) if rng.random() < 0.25 else 1.0
    noise = rng.uniform(2, 9) if rng.random() < 0.3 else 0.0
    moves = np.stack(
        [
            _similarity(frames.shape[1], size, scale * (1 + 0.03 * step[0]), angle, shift + 0.02 * step[1:3], flip)
            for step in walk
        ]
    )
    result = _warp(frames, moves, size)
    for index, view in enumerate(result):
        light = np.clip(curve * (1 + 0.06 * walk[index, 3]), 0, 255).astype(np.uint8)
        view = cv2.LUT(view, light)
        if coarse < 1:
            side = max(24, int(size * coarse))
            view = cv2.resize(cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA), (size, size))
        if blur:
            view = cv2.GaussianBlur(view, (0, 0), blur)
        if noise:
            grain = rng.normal(0, noise, (size, size, 1)).astype(np.float32)
            view = np.clip(view + grain, 0, 255).astype(np.uint8)
        result[index] = view
    return View(result, moves)


def paper_view(frames: Frames, size: int, rng: np.random.Generator, jitter: float = 0.0) -> View:
    """Return a random view of a clip [T,H,W,3] as in Align-DFER: a random crop with scale jitter (1, 112/120 or 0.875
    of the side) and a random flip, the same for the whole clip.

    jitter: as in `augmented_view`.
    """
    walk = _random_walk(len(frames), rng) * jitter
    part = rng.choice([1.0, 112 / 120, 0.875])
    shift = rng.uniform(-0.5, 0.5, 2) * (1 - part) / part
    flip = rng.random() < 0.5
    steps = [((1 + 0.03 * step[0]) / part, shift + 0.02 * step[1:3]) for step in walk]
    moves = np.stack([_similarity(frames.shape[1], size, scale, 0.0, place, flip) for scale, place in steps])
    return View(_warp(frames, moves, size), moves)


def resized_crop_view(frames: Frames, size: int, rng: np.random.Generator, jitter: float = 0.0) -> View:
    """Return a random view of a clip [T,H,W,3] as DFER-CLIP's authors train on DFEW: 8 to 100 % of the area, 3:4 to
    4:3, stretched to a square, a random flip, brightness times 0.5 to 1.5; the same for the whole clip.

    jitter: as in `augmented_view`.
    """
    source = frames.shape[1]
    walk = _random_walk(len(frames), rng) * jitter
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)) / 2)
    sides = np.minimum(np.sqrt(rng.uniform(0.08, 1.0)) * np.array([ratio, 1 / ratio]), 1.0)  # width, height
    centre = rng.uniform(sides / 2, 1 - sides / 2) * source - 0.5
    flip = rng.random() < 0.5
    light = np.clip(np.arange(256) * rng.uniform(0.5, 1.5), 0, 255).astype(np.uint8)
    zoom = size / source / sides * [-1.0 if flip else 1.0, 1.0]
    moves = np.empty((len(frames), 2, 3))
    for move, step in zip(moves, walk, strict=True):
        move[:, :2] = np.diag(zoom * (1 + 0.03 * step[0]))
        move[:, 2] = (size - 1) / 2 + 0.02 * size * step[1:3] - move[:, :2] @ centre
    return View(light[_warp(frames, moves, size)], moves)


AUGMENTATIONS: dict[str, Augment] = {
    "strong": augmented_view,
    "paper": paper_view,
    "resized-crop": resized_crop_view,
}


def _warp(frames: Frames, moves: NDArray[np.float64], size: int) -> Frames:
    """Warp frames [T,H,W,3] by matrices [T,2,3] into views [T,size,size,3]; borders are mirrored."""
    return _uint8(
        [
            cv2.warpAffine(frame, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            for frame, move in zip(frames, moves, strict=True)
        ]
    )


def _similarity(
    source: int, size: int, scale: float, angle: float, shift: NDArray[np.float64], flip: bool
) -> NDArray[np.float64]:
    """Return the 2×3 matrix from a source×source frame to a size×size view, about their centres."""
    zoom = size / source * scale
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    centre, target = np.full(2, (source - 1) / 2), np.full(2, (size - 1) / 2) + shift * size
    return np.hstack([linear, (target - linear @ centre)[:, None]])


def _random_walk(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a smooth random path [count, 4] of about unit size with a random start."""
    steps = rng.normal(0, 0.35, (count, 4))
    steps[0] = rng.normal(0, 0.7, 4)
    return np.cumsum(steps, axis=0)


def _light_curve(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a tone curve float64 [256] with random gamma, contrast and brightness."""
    tone = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.25))
    tone = (tone - 0.5) * rng.uniform(0.65, 1.35) + 0.5 + rng.uniform(-0.15, 0.15)
    return np.asarray(tone * 255)


def _uint8(image: object) -> Frames:
    return np.asarray(image, dtype=np.uint8)
