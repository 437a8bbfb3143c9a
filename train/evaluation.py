"""Scores of a checkpoint or a bundle on labelled clips: one protocol for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .augmentation import plain_view
from .data import ClipSet
from .metrics import Scores

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Crops of a window uint8 [T,H,W,3] → probabilities [C]."""


def open_model(path: Path) -> tuple[Classify, int, tuple[str, ...]]:
    """A checkpoint (file) or bundle (folder) as a function, with the crop size it wants and its classes."""
    if path.is_dir():
        from ..runtime.recognizer import Recognizer

        recognizer = Recognizer(path, provider="cpu")

        def by_bundle(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            probabilities: NDArray[np.float32] = recognizer.classify(recognizer.encode(frames)[None])[0]
            return probabilities

        return by_bundle, recognizer.bundle.manifest.preprocessing.size, recognizer.classes

    import torch

    from .checkpoint import load_checkpoint

    method, _ = load_checkpoint(path)
    matrix = method.class_matrix().detach()

    def by_checkpoint(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pooled = method.pool(method.encode_frames(torch.from_numpy(frames))[None])
            probabilities: NDArray[np.float32] = (method.scale * pooled @ matrix.T).softmax(dim=-1)[0].numpy()
        return probabilities

    return by_checkpoint, method.preprocessing.size, method.classes


def evaluate(
    classify: Classify,
    size: int,
    classes: tuple[str, ...],
    clips: ClipSet,
    shuffle: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Scores:
    """Classify every clip's test view; `shuffle` puts its frames in random order first, to show what time is worth.

    Labels are matched to the model's classes by name. `progress` hears of each clip.
    """
    place = {name: index for index, name in enumerate(classes)}
    labels = np.array([place[clips.classes[label]] for label in clips.labels], dtype=np.int64)
    predicted = np.empty_like(labels)
    rng = np.random.default_rng(0)
    for index in range(len(clips)):
        frames = plain_view(clips.frames(index), size)
        if shuffle:
            frames = frames[rng.permutation(len(frames))]
        predicted[index] = classify(frames).argmax()
        progress(1)
    return Scores.of(classes, labels, predicted)
