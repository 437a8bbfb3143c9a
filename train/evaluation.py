"""Scores of a checkpoint or a bundle on labelled clips: one protocol for both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import DferError, require
from ..runtime.recognizer import Recognizer
from .confidence import undo_temperature
from .data import ClipSet, labels_of
from .data.augmentation import plain_view
from .metrics import Scores

if TYPE_CHECKING:
    from .methods import Method


class Model(ABC):
    """A checkpoint or a bundle, as something that classifies windows. Use as a context manager.

    size: side of the crops it wants, pixels. classes: names of the probabilities. temperature: that is in them.
    """

    size: int
    classes: tuple[str, ...]
    temperature: float

    @abstractmethod
    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities [C] of a window of crops uint8 [T,size,size,3]."""

    def close(self) -> None:  # noqa: B027 (a checkpoint holds nothing open)
        """Free what is held."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BundleModel(Model):
    """What was exported, as the runtime runs it."""

    def __init__(self, path: Path, provider: str, precision: str) -> None:
        self._recognizer = Recognizer(path, provider=provider, precision=precision)
        manifest = self._recognizer.bundle.manifest
        self.size, self.classes, self.temperature = manifest.preprocessing.size, manifest.classes, manifest.temperature

    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        still = bool((frames == frames[:1]).all())  # of a photograph one frame is enough
        features = self._recognizer.encode(frames[:1] if still else frames)
        window = np.repeat(features, len(frames), axis=0) if still else features
        probabilities: NDArray[np.float32] = self._recognizer.classify(window[None])[0]
        return probabilities

    def close(self) -> None:
        self._recognizer.close()


class MethodModel(Model):
    """A model in memory, in PyTorch, on the GPU if there is one."""

    def __init__(self, method: Method) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._method = method.to(self._device).eval()
        self.size, self.classes = method.preprocessing.size, method.classes
        self.temperature = method.confidence.temperature
        with torch.inference_mode():
            self._matrix = method.class_matrix()

    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._torch.inference_mode():
            logits = self._method(self._torch.from_numpy(frames)[None].to(self._device), self._matrix)
            probabilities: NDArray[np.float32] = logits.softmax(dim=-1)[0].cpu().numpy()
        return probabilities


class CheckpointModel(MethodModel):
    """What was trained."""

    def __init__(self, path: Path, described: Path | None = None) -> None:
        require("torch", "train")
        from .checkpoints.checkpoint import load_checkpoint
        from .models.descriptions import load_descriptions

        method, _ = load_checkpoint(path)
        if described is not None:
            method.describe_classes(load_descriptions(described))
        super().__init__(method)


def open_model(path: Path, provider: str = "cpu", precision: str = "auto", described: Path | None = None) -> Model:
    """A checkpoint (file) or bundle (folder). Raises DferError for what is neither.

    provider, precision: how a bundle is run; a checkpoint has neither.
    described: JSON of other classes for a checkpoint; a bundle has no text side to read it.
    """
    if path.is_dir() and described is not None:
        raise DferError(f"{path}: a bundle has no text side; describe classes to its checkpoint, or export it again")
    if path.is_dir():
        return BundleModel(path, provider, precision)
    if (provider, precision) != ("cpu", "auto"):
        raise DferError(f"{path}: only a bundle has providers and precisions; export the checkpoint first")
    return CheckpointModel(path, described)


def evaluate(
    model: Model, clips: ClipSet, shuffle: bool = False, progress: Callable[[int], object] = lambda _: None
) -> Scores:
    """Classify every clip's test view; `shuffle` puts its frames in random order first, to show what time is worth.

    Labels are matched to the model's classes by name. `progress` hears of each clip.
    Raises DferError when the clips show a class that the model does not know.
    """
    labels = labels_of(clips, model.classes)
    probabilities = np.empty((len(labels), len(model.classes)), np.float32)
    rng = np.random.default_rng(0)
    for index in range(len(clips)):
        frames = plain_view(clips.frames(index), model.size)
        if shuffle:
            frames = frames[rng.permutation(len(frames))]
        probabilities[index] = model.classify(frames)
        progress(1)
    return Scores.of(model.classes, labels, probabilities, undo_temperature(probabilities, model.temperature))
