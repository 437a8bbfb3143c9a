"""Single frames with soft labels, and batched random views of them, for pre-training an image tower."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ...runtime.labels import EXPRESSIONS
from ...runtime.procedural.expressions import APEX
from .augmentation import plain_view
from .procedural import ProceduralClips
from .stills import StillClips

DOUBT = 0.1
"""Label smoothing of photographs with one label and no votes: this share is spread over all classes."""


@dataclass(frozen=True)
class Images:
    """Single frames with soft labels.

    frames: uint8 [N,128,128,3] RGB.
    targets: float32 [N,C], the share of each class; rows sum to 1.
    """

    frames: NDArray[np.uint8]
    targets: NDArray[np.float32]

    @classmethod
    def of_stills(cls, stills: StillClips) -> Images:
        frames = np.stack([plain_view(stills.image(index)[None], 128)[0] for index in range(len(stills))])
        labelled = np.eye(len(EXPRESSIONS), dtype=np.float32)[stills.labels] * (1 - DOUBT) + DOUBT / len(EXPRESSIONS)
        return cls(frames, labelled if stills.shares is None else stills.shares)

    @classmethod
    def of_procedural(cls, clips: ProceduralClips) -> Images:
        """Label frames at rest "neutral" and apex frames by class; classes with the same apex face share it evenly."""
        neutral = EXPRESSIONS.index("neutral")
        apex = np.zeros((len(EXPRESSIONS), len(EXPRESSIONS)), np.float32)
        for row, label in enumerate(EXPRESSIONS):
            apex[row] = [APEX[other] == APEX[label] for other in EXPRESSIONS]
        apex /= apex.sum(axis=1, keepdims=True)
        shown = np.clip(clips.intensity * 2, 0, 1)[:, :, None]
        targets = shown * apex[clips.labels][:, None]
        targets[:, :, neutral] += 1 - shown[:, :, 0]
        frames = np.concatenate([clips.frames(index) for index in range(len(clips))])
        return cls(frames, targets.reshape(len(frames), -1))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class with the largest share of each frame, int64 [N]."""
        return np.asarray(self.targets.argmax(axis=1))

    def accuracy(self, probabilities: NDArray[np.float32]) -> float:
        """Return the share of frames whose most probable class is (one of) those with the largest target share."""
        best = probabilities.argmax(axis=1)
        shown = self.targets[np.arange(len(best)), best]
        return float((shown >= self.targets.max(axis=1) - 1e-6).mean())


def random_views(pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return a random view float32 [N,C,size,size] of each aligned face [N,C,H,W], all 0..1.

    Each is rotated (±12°), scaled (e^±0.15) and shifted (±7 %); half are mirrored. One in ten has half the resolution;
    some are blurred, sharpened or noisy. Gamma (e^N(0, 0.16)), contrast (±23 %) and brightness (±0.12) vary. In a
    quarter, a rectangle is painted over (random erasing, Zhong et al. 2020), so that no single region carries the
    decision.
    """
    count = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def some(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    angle, scale, shift = uniform(-1, 1) * math.radians(12), torch.exp(uniform(-0.15, 0.15)), uniform(-0.14, 0.14, 2)
    mirror = torch.where(some(0.5), -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, size, size], align_corners=False)
    views = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    coarse = some(0.1)
    if coarse.any():
        half = functional.interpolate(views[coarse], scale_factor=0.5, mode="area")
        views[coarse] = functional.interpolate(half, size=(size, size), mode="bilinear", align_corners=False)
    blur = torch.where(some(0.18), uniform(-0.8, 1.0), torch.zeros(count))  # below 0 it sharpens
    views = views + _each(blur) * (_blurred(views) - views)
    views = views.clamp(1e-4, 1) ** _each(torch.exp(0.16 * torch.randn(count, generator=generator)))
    views = (views - 0.5) * _each(uniform(0.77, 1.23)) + 0.5 + _each(uniform(-0.12, 0.12))
    noise = torch.where(some(0.12), uniform(0, 0.035), torch.zeros(count))
    views = views + _each(noise) * torch.randn(count, 1, size, size, generator=generator)
    height, width = uniform(0.1, 0.35) * size, uniform(0.1, 0.35) * size
    top, left = uniform(0, 1) * (size - height), uniform(0, 1) * (size - width)
    painted = _between(top, height, size)[:, :, None] & _between(left, width, size)[:, None] & some(0.25)[:, None, None]
    return torch.where(painted[:, None], _each(uniform(0, 1)), views.clamp(0, 1))


def with_hands(views: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return the views float32 [N,C,S,S] of aligned faces, 0..1; before the lower face of a share of them is a hand.

    Two to four fingers come from below, as bright as the face, with the tips anywhere between the nose and the chin.
    """
    count, size = len(views), views.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count, generator=generator) * (high - low) + low).view(-1, 1, 1)

    line = (torch.arange(size) + 0.5) / size - 0.5
    angle = uniform(-1, 1) * math.radians(55)
    right, down = line[None, None] - uniform(-0.22, 0.22), line[None, :, None] - uniform(-0.02, 0.28)
    across, along = right * angle.cos() + down * angle.sin(), down * angle.cos() - right * angle.sin()
    width, fingers = uniform(0.075, 0.13), uniform(2, 5).floor()
    place = across / width + fingers / 2
    finger = place.floor().clamp(0, 4)
    lengths = 0.12 * torch.rand(count, 5, generator=generator)
    tip = lengths.gather(1, finger.long().flatten(1)).view_as(place)
    side = 2 * (place - finger) - 1  # -1..1 from one edge of a finger to the other
    round_end = width / 2 * (1 - (1 - side.clamp(-1, 1) ** 2).sqrt())
    hand = (place > 0) & (place < fingers) & (along - tip > round_end) & (uniform(0, 1) < share)
    cheeks = views[:, :, size * 2 // 5 : size * 3 // 5, size * 3 // 10 : size * 7 // 10]
    skin = cheeks.mean(dim=(2, 3))[:, :, None, None] * uniform(0.85, 1.3)[:, None]
    shade = 1 - 0.35 * side.abs() ** 4 - uniform(0, 0.3) * along.clamp(0, 1)
    return torch.where(hand[:, None], (skin * shade[:, None]).clamp(0, 1), views)


def _each(values: Tensor) -> Tensor:
    """Reshape one value per image [N] to broadcast over images [N,C,H,W]."""
    return values.view(-1, 1, 1, 1)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return bool [N,size]: the pixels from `start` to `start + length`."""
    places = torch.arange(size)[None]
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def _blurred(views: Tensor) -> Tensor:
    """Binomial 3×3 blur."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(views.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(views, (1, 1, 1, 1), mode="replicate"), kernel, groups=views.shape[1])
