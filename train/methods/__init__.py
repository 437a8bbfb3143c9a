"""The contract of a method: a model that ends as two graphs and a class matrix. A new method is one new file here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.bundle import Preprocessing
from .phases import Phase, Plan

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's


def normalise_pixels(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [N,H,W,3] → float32 [N,3,S,S], scaled, grey if asked, at the encoder's size and normalised."""
    pixels = lay_out(frames.to(torch.float32), preprocessing) / 255  # cast first: TensorRT's uint8 can only be cast
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

    classes: C names in the order of the class matrix.
    window: T, frames per prediction.
    preprocessing: how frames enter `encode_frames`.
    scale: 1/τ, what cosine similarities are multiplied by before softmax.
    default_plan: how it is trained when nothing else is asked for.
    """

    name: ClassVar[str]
    default_plan: ClassVar[Plan]
    classes: tuple[str, ...]
    window: int
    preprocessing: Preprocessing
    scale: float

    @property
    @abstractmethod
    def image_encoder(self) -> nn.Module:
        """What `encode_frames` runs; frozen or trained."""

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
        """L2-normalised text features [C,D]; independent of any video."""

    @abstractmethod
    def phases(self, plan: Plan) -> list[Phase]:
        """What to train when. Entering a phase may change the model's parts; they are entered in order."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` rebuilds this model without its weights."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        """Rebuild the model of `config()`, with random weights."""

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Features float32 [N,D] of crops uint8 [N,H,W,3] RGB."""
        return self.encode_pixels(normalise_pixels(frames, self.preprocessing))

    def logits(self, features: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Class logits float32 [N,C] of windows of frame features [N,T,D]; without a class matrix, with the model's."""
        matrix = self.class_matrix() if class_matrix is None else class_matrix
        pooled = self.pool(features)
        with torch.autocast(features.device.type, enabled=False):  # times 100: half precision would show
            return self.scale * pooled.float() @ matrix.float().T

    def forward(self, inputs: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Logits [N,C] of clips, given as features [N,T,D] or as crops uint8 [N,T,H,W,3]."""
        if inputs.dtype == torch.uint8:
            inputs = self.encode_frames(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return self.logits(inputs, class_matrix)


def method_classes() -> dict[str, type[Method]]:
    """The methods by name."""
    from .align_dfer import AlignDfer
    from .dfer_clip import DferClip

    return {method.name: method for method in (AlignDfer, DferClip)}
