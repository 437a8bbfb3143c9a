"""The contract of a method: a model that ends as two graphs and a class matrix, and how it is built and trained.

A new method is one file with one class, and its name in `METHODS` (or, in a package of one's own, an entry point).
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
"""Of labels in cross-entropy (our choice)."""
_KINDS = {bool: "true or false", Integral: "a whole number", Real: "a number", str: "a text"}
"""Of options; a boolean is an Integral, and that a Real, for Python."""
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's


def normalise_pixels(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [N,H,W,3] → float32 [N,3,S,S], scaled, grey if asked, at the encoder's size and normalised."""
    # Cast first: TensorRT's uint8 can only be cast.
    return standardise(lay_out(frames.to(torch.float32), preprocessing) / 255, preprocessing)


def standardise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixels [N,3,S,S] in 0..1, minus the encoder's mean and divided by its standard deviation."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def lay_out(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """float32 [N,H,W,3] → [N,3,S,S], grey if asked and at the encoder's size. It commutes with scale and offset."""
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

    name: what `--method` and checkpoints call it. default_plan, augmentation: how it is trained when nothing else is
        asked for, the latter on real clips.
    labelled: whether it learns from labels; if not, from captions alone, and `retrieved` says how well.
    classes: C names in the order of the class matrix.
    window: T, frames per prediction.
    preprocessing: how frames enter `encode_frames`.
    scale: 1/τ, what similarities are multiplied by before softmax.
    temporal: what `pool` runs on features [N,T,D] before L2-norm. A `Synchronizer`, `TemporalNet` or `TemporalMean` can
        be taken over by a student (dfer-distill); a method that pools otherwise needs none.
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
        """A new model on `clip`, to be trained by `plan`.

        Its own options are its keyword-only parameters, each with a default; `build_method` refuses all others.
        Raises ParameterError for a value that does not serve.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` rebuilds this model without its weights."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        """Rebuild the model of `config()`, with random weights."""

    @classmethod
    def load_published(cls, path: Path) -> tuple[Method, dict[str, Any]]:
        """A checkpoint of the method's authors: the model in evaluation mode, and what it says about its training.

        Raises DferError for a file that is none, or when the authors published none that can be read.
        """
        raise DferError(f"checkpoint {path}: no published checkpoints of {cls.name} can be read, only dfer-train's")

    # -- what it computes

    @property
    @abstractmethod
    def image_encoder(self) -> nn.Module:
        """All that features of frames depend on: what `encode_pixels` runs, adapters included.

        Stored features hold for these weights only; a run that trains any of them reads pixels instead.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of features."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Features float32 [N,D] of normalised pixels [N,3,S,S], each frame on its own."""

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """L2-normalised video features [N,D] of windows of frame features [N,T,D]."""

    @abstractmethod
    def class_matrix(self) -> Tensor:
        """What video features are compared with, [C,D]: a row for each class, of unit length where cosines are meant;
        independent of any video."""

    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Give the model other classes: names → what each looks like in words, as the method wants them.

        Of several texts of a class it takes the mean of their unit vectors (`mean_of_units`).
        Raises DferError for a method, or a model, that learned its text side class by class.
        """
        raise DferError(f"this {self.name} learned a text for each class, so it knows no others")

    @property
    def final_scale(self) -> float:
        """What similarities are multiplied by, temperature included."""
        return self.scale / self.confidence.temperature

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Features float32 [N,D] of crops uint8 [N,H,W,3] RGB."""
        return self.encode_pixels(normalise_pixels(frames, self.preprocessing))

    def logits(self, features: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Class logits float32 [N,C] of windows of frame features [N,T,D]; without a class matrix, with the model's."""
        return self.compare(self.pool(features), class_matrix)

    def compare(self, pooled: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Class logits float32 [N,C] of video features [N,D]; without a class matrix, with the model's."""
        matrix = self.class_matrix() if class_matrix is None else class_matrix
        with torch.autocast(pooled.device.type, enabled=False):  # times 100: half precision would show
            return self.final_scale * pooled.float() @ matrix.float().T

    def forward(self, inputs: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Logits [N,C] of clips, given as features [N,T,D] or as crops uint8 [N,T,H,W,3]."""
        return self.logits(self.encode_clips(inputs), class_matrix)

    def encode_clips(self, inputs: Tensor) -> Tensor:
        """Frame features [N,T,D] of clips that are given so already, or as crops uint8 [N,T,H,W,3]."""
        if inputs.dtype == torch.uint8:
            inputs = self.encode_frames(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return inputs

    # -- how it is trained

    @abstractmethod
    def phases(self, plan: Plan) -> list[Phase]:
        """What to train when. Entering a phase may change the model's parts; they are entered in order."""

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of a phase: SGD with momentum, as in most DFER papers.

        groups: torch's parameter groups, `params` and the phase's `lr`, which the loop then moves along the schedule.
        """
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        """The training loss of a batch, a scalar: cross-entropy, labels smoothed by 0.1 (our choice).

        class_matrix: computed already, in phases that leave the text side alone. class_weights: float32 [C] of
        `--class-weights`, 1 for all where None.
        """
        return cross_entropy(self(batch.inputs, class_matrix), batch, class_weights)

    def retrieved(self, batch: Batch) -> Tensor:
        """bool [B]: clips whose nearest caption in the batch is their own. Epochs without labels are chosen by this."""
        raise NotImplementedError

    def trained_state(self, phases: Sequence[Phase]) -> dict[str, Tensor]:
        """The part of `state_dict()` that any of the phases trains, under all names that a tensor has; not copied."""
        state = self.state_dict(keep_vars=True)
        trained = {id(state[name]) for name in state if any(phase.group_of(name) is not None for phase in phases)}
        return {name: value for name, value in state.items() if id(value) in trained}

    def finished_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: `state_dict()` without what serves training only."""
        return self.state_dict()

    def trains_encoder(self, phases: Sequence[Phase]) -> bool:
        """Whether any of the phases trains what features of frames depend on."""
        encoder = {id(value) for value in self.image_encoder.state_dict(keep_vars=True).values()}
        return any(id(value) in encoder for value in self.trained_state(phases).values())


def cross_entropy(logits: Tensor, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """Mean of `cross_entropies`."""
    return cross_entropies(logits, batch, class_weights).mean()


def cross_entropies(logits: Tensor, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """[B] of logits [B,C] of a batch's clips, labels smoothed by `SMOOTHING`; class_weights: see `Method.loss`.

    torch's own `weight` would weigh the smoothing's share of each class too, and draw all clips to rare classes.
    """
    losses = functional.cross_entropy(logits, batch.targets, label_smoothing=SMOOTHING, reduction="none")
    return losses if class_weights is None else losses * class_weights[batch.labels]


def build_method(
    method: type[Method], clip: Clip, classes: tuple[str, ...], plan: Plan, options: Mapping[str, Any]
) -> Method:
    """A new model of `method`. Raises ParameterError for an option that is not the method's own."""
    check_options(method, options)
    return method.from_options(clip, classes, plan, **options)


def give_classes(method: Method, path: Path) -> None:
    """Give a model the classes of a JSON file of descriptions. Its confidence, fitted to the old ones, is forgotten.

    Raises DferError as `load_descriptions` and `Method.describe_classes` do.
    """
    method.describe_classes(load_descriptions(path))
    method.confidence = Confidence()


def check_options(method: type[Method], options: Mapping[str, Any]) -> None:
    """Raise ParameterError for an option that is not the method's own, and for a value of another kind than its default
    has; costs nothing, so ask before data are opened."""
    parameters = inspect.signature(method.from_options).parameters.values()
    own = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in own:
            raise ParameterError(option, f"not an option of {method.name}, which has {', '.join(own) or 'none'}")
        wanted = next((kind for kind in _KINDS if isinstance(own[option], kind)), None)
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
            raise ParameterError(option, f"{value!r} is not {_KINDS[wanted]}")
