"""Image features of clips, computed once: CLIP is frozen, so training needs the encoder only here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .augmentation import augmented_view, plain_view
from .data import ClipSet
from .methods import Method
from .precision import mixed_precision


@dataclass(frozen=True)
class FeatureSet:
    """Features of a clip set under several views.

    features: float16 [V,N,T,D]; view 0 is the test view, the others are augmented.
    labels: int64 [N].
    """

    features: Tensor
    labels: Tensor


@torch.inference_mode()
def encode_clips(
    method: Method,
    clips: ClipSet,
    augmented: int = 0,
    seed: int = 0,
    progress: Callable[[int], object] = lambda _: None,
    clips_per_batch: int = 4,
) -> FeatureSet:
    """Features of every clip's test view and of `augmented` random views; `progress` hears of clips done per call."""
    size = method.preprocessing.size
    views: list[list[Tensor]] = [[] for _ in range(1 + augmented)]
    for start in range(0, len(clips), clips_per_batch):
        batch = [clips.frames(index) for index in range(start, min(start + clips_per_batch, len(clips)))]
        for view, rows in enumerate(views):
            if view == 0:
                frames = np.stack([plain_view(clip, size) for clip in batch])
            else:
                rng = np.random.default_rng([seed, view, start])
                frames = np.stack([augmented_view(clip, size, rng, clips.tremble) for clip in batch])
            flat = torch.from_numpy(frames).flatten(0, 1)
            with mixed_precision():
                features = method.encode_frames(flat)
            rows.append(features.unflatten(0, frames.shape[:2]).half())
        progress(len(batch))
    return FeatureSet(torch.stack([torch.cat(rows) for rows in views]), torch.from_numpy(clips.labels))
