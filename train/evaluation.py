"""Evaluate checkpoints and bundles on labelled clips in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import DferError, ParameterError, require
from ..runtime.recognizer import Recognizer
from .checkpoints.protocol import LearnedFrom
from .confidence import undo_temperature
from .data import ClipSet, labels_of
from .data.augmentation import plain_view
from .data.matching import Matching
from .metrics import Scores

if TYPE_CHECKING:
    from .methods import Method

Warn = Callable[[str], object]


class Model(ABC):
    """A checkpoint or a bundle that classifies windows. Use as a context manager.

    size: side of its input crops, pixels. classes: names, in the order of the probabilities. temperature: applied to
    the probabilities. learned: what it was trained on, None if unknown. provider, precision: what runs a bundle, never
    "auto"; None for a checkpoint.
    """

    learned: LearnedFrom | None = None
    provider: str | None = None
    precision: str | None = None
    size: int
    classes: tuple[str, ...]
    temperature: float

    @abstractmethod
    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities [C] of a window of crops uint8 [T,size,size,3]."""

    def close(self) -> None:  # noqa: B027 (a checkpoint holds nothing open)
        """Free resources."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BundleModel(Model):
    """An exported bundle, run by the runtime."""

    def __init__(self, path: Path, provider: str, precision: str, warn: Warn) -> None:
        self._recognizer = Recognizer(path, provider=provider, precision=precision, warn=warn)
        self.provider, self.precision = self._recognizer.provider, self._recognizer.precision
        manifest = self._recognizer.bundle.manifest
        self.size, self.classes, self.temperature = manifest.preprocessing.size, manifest.classes, manifest.temperature
        self.learned = LearnedFrom.of_training(manifest.provenance.get("training"))

    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = self._recognizer.classify(self._window(frames)[None])[0]
        return probabilities

    def _window(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features float32 [T,D] of a window of crops."""
        still = bool((frames == frames[:1]).all())  # a photograph: encode one frame
        features = self._recognizer.encode(frames[:1] if still else frames)
        return np.repeat(features, len(frames), axis=0) if still else features

    def close(self) -> None:
        self._recognizer.close()


class DescribedBundle(BundleModel):
    """A bundle's encoder, run by the runtime, with other classes: the head is that of its checkpoint, in PyTorch."""

    def __init__(
        self, path: Path, provider: str, precision: str, described: Path, checkpoint: Path | None, warn: Warn
    ) -> None:
        require("torch", "train")
        super().__init__(path, provider, precision, warn)
        try:
            from .checkpoints.checkpoint import checkpoint_of

            method = _described(checkpoint_of(self._recognizer.bundle, checkpoint), described)[0]
            self._head = MethodModel(method)
        except BaseException:
            self.close()
            raise
        self.classes, self.temperature = self._head.classes, self._head.temperature

    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._head.classify(self._window(frames))


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

    def classify(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities [C] of a window of frames, or of frame features float32 [T,D]."""
        with self._torch.inference_mode():
            logits = self._method(self._torch.from_numpy(inputs)[None].to(self._device), self._matrix)
            probabilities: NDArray[np.float32] = logits.softmax(dim=-1)[0].cpu().numpy()
        return probabilities


class CheckpointModel(MethodModel):
    """A trained checkpoint."""

    def __init__(self, path: Path, described: Path | None = None) -> None:
        require("torch", "train")
        method, training = _described(path, described)
        super().__init__(method)
        self.learned = LearnedFrom.of_training(training)


def _described(path: Path, described: Path | None) -> tuple[Method, dict[str, Any]]:
    """Load a checkpoint's model, with the classes of `described` if given, and its training record."""
    from .checkpoints.checkpoint import load_checkpoint
    from .methods import give_classes

    method, training = load_checkpoint(path)
    if described is not None:
        give_classes(method, described)
    return method, training


def open_model(
    path: Path,
    provider: str = "cpu",
    precision: str = "auto",
    described: Path | None = None,
    checkpoint: Path | None = None,
    warn: Warn = lambda _: None,
) -> Model:
    """Open a checkpoint (file) or bundle (folder). Raises DferError for anything else.

    provider, precision: for bundles only.
    described: JSON of other classes. For a bundle, their texts are encoded by the checkpoint that it was exported from:
    `checkpoint`, or the one beside the bundle (`checkpoint_of`).
    warn: called with one line about each problem of a bundle that is not an error.
    """
    if checkpoint is not None and (described is None or not path.is_dir()):
        raise ParameterError("checkpoint", "is what reads the texts of a bundle's other classes, and for nothing else")
    if path.is_dir() and described is not None:
        return DescribedBundle(path, provider, precision, described, checkpoint, warn)
    if path.is_dir():
        return BundleModel(path, provider, precision, warn)
    if (provider, precision) != ("cpu", "auto"):
        raise DferError(f"{path}: only a bundle has providers and precisions; export the checkpoint first")
    return CheckpointModel(path, described)


def evaluate(
    model: Model,
    clips: ClipSet,
    shuffle: bool = False,
    progress: Callable[[int], object] = lambda _: None,
    matching: Matching | None = None,
) -> Scores:
    """Classify every clip's test view and score the results.

    shuffle: put frames in random order first, to measure the effect of time. progress: called with 1 after each clip.
    matching: maps labels to the model's classes; clips that it leaves out are not classified. Without it, labels are
    matched by name, and DferError is raised for a class that the model does not have.
    """
    given = labels_of(clips, model.classes) if matching is None else matching.labels
    known = np.flatnonzero(given >= 0)
    labels = given[known]
    probabilities = np.empty((len(labels), len(model.classes)), np.float32)
    rng = np.random.default_rng(0)
    for index, clip in enumerate(known.tolist()):
        frames = plain_view(clips.frames(clip), model.size)
        if shuffle:
            frames = frames[rng.permutation(len(frames))]
        probabilities[index] = model.classify(frames)
        progress(1)
    return Scores.of(model.classes, labels, probabilities, undo_temperature(probabilities, model.temperature))
