"""The interface of a method: a model that is exported as two graphs and a class matrix, and how it is trained.

A new method is one file with one class, and its name in `METHODS` (or, in another package, an entry point).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.bundle import Preprocessing
from ...runtime.errors import DferError, ParameterError
from ..confidence import Confidence
from ..data import Batch
from ..models.clip import Clip
from ..models.descriptions import Texts, load_descriptions
from .phases import Phase, Plan

SMOOTHING = 0.1
"""Label smoothing of the cross-entropy (our choice)."""
_KINDS = {bool: "true or false", Integral: "a whole number", Real: "a number", str: "a text"}
"""Types of options, most specific first: in Python, a bool is an Integral, and an Integral is a Real."""
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's


def normalise_pixels(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert uint8 [N,H,W,3] to float32 [N,3,S,S]: scaled, optionally grey, at the encoder's size, normalised."""
    # Cast first: TensorRT supports no other operation on uint8.
    return standardise(lay_out(frames.to(torch.float32), preprocessing) / 255, preprocessing)


def standardise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Subtract the encoder's mean from pixels [N,3,S,S] in 0..1, and divide by its standard deviation."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def lay_out(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert float32 [N,H,W,3] to [N,3,S,S], grey if set, at the encoder's size. Commutes with scale and offset."""
    pixels = pixels.permute(0, 3, 1, 2)
    if preprocessing.grey:
        luma = torch.tensor(LUMA, device=pixels.device).view(1, 3, 1, 1)
        pixels = (pixels * luma).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    if preprocessing.encoder_size != preprocessing.size:
        side = preprocessing.encoder_size
        pixels = functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    return pixels


class Method(nn.Module, ABC):
    """A DFER model.

    name: its name for `--method` and in checkpoints. default_plan, augmentation: the training defaults, the latter for
        real clips.
    labelled: whether it is trained on labels; if not, on captions only, and `retrieved` measures it.
    classes: C names in the order of the class matrix.
    window: T, frames per prediction.
    preprocessing: of the frames given to `encode_frames`.
    scale: 1/τ, the factor on similarities before softmax.
    temporal: the module that `pool` applies to features [N,T,D] before L2-norm. A student (dfer-distill) can take over
        a `Synchronizer`, `TemporalNet` or `TemporalMean`; a method that pools otherwise needs none.
    confidence: fitted after training; its temperature divides logits.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = True
    default_plan: ClassVar[Plan]
    augmentation: ClassVar[str] = "paper"
    classes: tuple[str, ...]
    window: int
    preprocessing: Preprocessing
    scale: float
    temporal: nn.Module
    confidence: Confidence = Confidence()

    # -- how it is built

    @classmethod
    @abstractmethod
    def from_options(cls, clip: Clip, classes: tuple[str, ...], plan: Plan, **options: Any) -> Method:
        """Build a new model on `clip`, to be trained by `plan`.

        A method's options are the keyword-only parameters, each with a default; `build_method` refuses all others.
        Raises ParameterError for an invalid value.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` rebuilds this model without its weights."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        """Rebuild the model of `config()`, with random weights."""

    @classmethod
    def load_published(cls, path: Path) -> tuple[Method, dict[str, Any]]:
        """Load a checkpoint of the method's authors: the model in evaluation mode, and its training record.

        Raises DferError for any other file, and by default, for methods without published checkpoints.
        """
        raise DferError(f"checkpoint {path}: no published checkpoints of {cls.name} can be read, only dfer-train's")

    # -- what it computes

    @property
    @abstractmethod
    def image_encoder(self) -> nn.Module:
        """The module that `encode_pixels` runs, including adapters.

        Stored features are valid for its weights only; a run that trains any of them uses pixels instead.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of features."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return features float32 [N,D] of normalised pixels [N,3,S,S], each frame on its own."""

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """Return L2-normalised video features [N,D] of windows of frame features [N,T,D]."""

    @abstractmethod
    def class_matrix(self) -> Tensor:
        """Return the class features [C,D] that video features are compared with, independent of any video; of unit
        length if similarities are to be cosines."""

    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Give the model other classes: names → descriptions in the form that the method expects.

        Several texts of a class are averaged as unit vectors (`mean_of_units`).
        Raises DferError for a method, or a model, with a learned text per class.
        """
        raise DferError(f"this {self.name} learned a text for each class, so it knows no others")

    @property
    def final_scale(self) -> float:
        """The factor on similarities, temperature included."""
        return self.scale / self.confidence.temperature

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Return features float32 [N,D] of crops uint8 [N,H,W,3] RGB."""
        return self.encode_pixels(normalise_pixels(frames, self.preprocessing))

    def logits(self, features: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Return logits float32 [N,C] of windows of frame features [N,T,D]. class_matrix: default the model's own."""
        return self.compare(self.pool(features), class_matrix)

    def compare(self, pooled: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Return logits float32 [N,C] of video features [N,D]. class_matrix: default the model's own."""
        matrix = self.class_matrix() if class_matrix is None else class_matrix
        with torch.autocast(pooled.device.type, enabled=False):  # scale is 100: half precision would lose too much
            return self.final_scale * pooled.float() @ matrix.float().T

    def forward(self, inputs: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Return logits [N,C] of clips, given as features [N,T,D] or as crops uint8 [N,T,H,W,3]."""
        return self.logits(self.encode_clips(inputs), class_matrix)

    def encode_clips(self, inputs: Tensor) -> Tensor:
        """Return frame features [N,T,D] of crops uint8 [N,T,H,W,3]; features are returned unchanged."""
        if inputs.dtype == torch.uint8:
            inputs = self.encode_frames(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return inputs

    # -- how it is trained

    @abstractmethod
    def phases(self, plan: Plan) -> list[Phase]:
        """Return the training phases, in order. Entering a phase may change the model's parts."""

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser of a phase: SGD with momentum, as in most DFER papers.

        groups: torch's parameter groups with `params` and the phase's `lr`, to which the loop applies the schedule.
        """
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        """Return the training loss of a batch, a scalar: cross-entropy with label smoothing 0.1 (our choice).

        class_matrix: precomputed in phases that do not train the text side. class_weights: float32 [C] of
        `--class-weights`; None: 1 for all.
        """
        return cross_entropy(self(batch.inputs, class_matrix), batch, class_weights)

    def retrieved(self, batch: Batch) -> Tensor:
        """Return bool [B]: clips whose nearest caption in the batch is their own, used to choose epochs."""
        raise NotImplementedError

    def trained_state(self, phases: Sequence[Phase]) -> dict[str, Tensor]:
        """Return the part of `state_dict()` that any phase trains, under all names of each tensor; not copied."""
        state = self.state_dict(keep_vars=True)
        trained = {id(state[name]) for name in state if any(phase.group_of(name) is not None for phase in phases)}
        return {name: value for name, value in state.items() if id(value) in trained}

    def finished_state(self) -> dict[str, Tensor]:
        """Return the state for checkpoints: `state_dict()` without parts that are used in training only."""
        return self.state_dict()

    def trains_encoder(self, phases: Sequence[Phase]) -> bool:
        """Return whether any phase trains weights of the image encoder."""
        encoder = {id(value) for value in self.image_encoder.state_dict(keep_vars=True).values()}
        return any(id(value) in encoder for value in self.trained_state(phases).values())


def cross_entropy(logits: Tensor, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """Return the mean of `cross_entropies`."""
    return cross_entropies(logits, batch, class_weights).mean()


def cross_entropies(logits: Tensor, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """Return the cross-entropies [B] of logits [B,C], with label smoothing; class_weights: see `Method.loss`.

    torch's own `weight` would also weight the smoothed share of each class, and pull all clips towards rare classes.
    """
    losses = functional.cross_entropy(logits, batch.targets, label_smoothing=SMOOTHING, reduction="none")
    return losses if class_weights is None else losses * class_weights[batch.labels]


def build_method(
    method: type[Method], clip: Clip, classes: tuple[str, ...], plan: Plan, options: Mapping[str, Any]
) -> Method:
    """Build a new model of `method`. Raises ParameterError for an option that it does not have."""
    check_options(method, options)
    return method.from_options(clip, classes, plan, **options)


def give_classes(method: Method, path: Path) -> None:
    """Give a model the classes of a JSON file of descriptions; reset its confidence, which was fitted to the old ones.

    Raises DferError as `load_descriptions` and `Method.describe_classes` do.
    """
    method.describe_classes(load_descriptions(path))
    method.confidence = Confidence()


def check_options(method: type[Method], options: Mapping[str, Any]) -> None:
    """Raise ParameterError for an option that the method does not have, or a value of another type than its default.
    This is cheap, so call it before opening data."""
    parameters = inspect.signature(method.from_options).parameters.values()
    own = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in own:
            raise ParameterError(option, f"not an option of {method.name}, which has {', '.join(own) or 'none'}")
        wanted = next((kind for kind in _KINDS if isinstance(own[option], kind)), None)
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
            raise ParameterError(option, f"{value!r} is not {_KINDS[wanted]}")
