"""The contract of a method: a model that ends as two graphs and a class matrix. A new method is one new file here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.preprocessing import Preprocessing

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV's


def normalise_pixels(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [N,H,W,3] → float32 [N,3,S,S], scaled, grey if asked, normalised and at the encoder's size."""
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32) / 255
    if preprocessing.grey:
        luma = torch.tensor(LUMA, device=pixels.device).view(1, 3, 1, 1)
        pixels = (pixels * luma).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, 3, 1, 1)
    pixels = (pixels - mean) / std
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
    """

    name: ClassVar[str]
    classes: tuple[str, ...]
    window: int
    preprocessing: Preprocessing
    scale: float

    @abstractmethod
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Features float32 [N,D] of crops uint8 [N,H,W,3] RGB, each on its own."""

    @abstractmethod
    def pool(self, features: Tensor) -> Tensor:
        """L2-normalised video features [N,D] of windows of frame features [N,T,D]."""

    @abstractmethod
    def class_matrix(self) -> Tensor:
        """L2-normalised text features [C,D]; independent of any video."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which `from_config` rebuilds this model without its weights."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        """Rebuild the model of `config()`, with random weights."""

    def logits(self, features: Tensor) -> Tensor:
        """Class logits [N,C] of windows of frame features [N,T,D]."""
        return self.scale * self.pool(features) @ self.class_matrix().T


def method_classes() -> dict[str, type[Method]]:
    """The methods by name."""
    from .align_dfer import AlignDfer
    from .dfer_clip import DferClip

    return {method.name: method for method in (AlignDfer, DferClip)}
