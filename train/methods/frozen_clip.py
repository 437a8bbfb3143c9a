"""The common base of methods on a frozen CLIP."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ...runtime.bundle import Preprocessing
from ..models.clip import Clip, rebuild_clip
from .method import Method


class FrozenClip(Method):
    """A method on a frozen CLIP, whose features are L2-normalised.

    clip_model: the CLIP, without gradients; a method may train its own parts, such as adapters, in the towers.
    """

    _clip: Clip
    clip_model: nn.Module

    @property
    def image_encoder(self) -> nn.Module:
        """CLIP's image tower, with the method's adapters, if any."""
        encoder: nn.Module = self.clip_model.visual  # type: ignore[assignment]
        return encoder

    @property
    def width(self) -> int:
        return self._clip.width

    def config(self) -> dict[str, Any]:
        return {
            "clip": self._clip.identity,
            "preprocessing": self.preprocessing.to_json(),
            "classes": list(self.classes),
            "window": self.window,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FrozenClip:
        """Rebuild the model of `config()` with random weights; further values are arguments of the class."""
        clip = rebuild_clip(config["clip"], Preprocessing.from_json(config["preprocessing"]))
        rest = {name: value for name, value in config.items() if name not in ("clip", "preprocessing", "classes")}
        return cls(clip, tuple(config["classes"]), **rest)

    def train(self, mode: bool = True) -> FrozenClip:
        """Set training mode; the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip_model.eval()
        return self

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = self.clip_model.encode_image(pixels)  # type: ignore[operator]
        return functional.normalize(features.float(), dim=-1)
