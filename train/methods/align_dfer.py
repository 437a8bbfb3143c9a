"""Align-DFER: frozen CLIP, alignment tokens (MAT) for text, one synchronizer (JAS) for both sides."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ...runtime.labels import EXPRESSIONS
from ..clip import Clip
from ..synchronizer import Synchronizer
from ..tokens import AlignmentTokens
from . import Method, normalise_pixels


class AlignDfer(Method):
    """p = softmax(cos(JAS(video frames), JAS(class sentences)) / τ), τ = 0.01.

    clip: the CLIP to freeze. window: T = S, frames per clip and sentences per class.
    tokens: T_tok, learned tokens per sentence (the paper has 64). layers: depth of the synchronizer.
    """

    name = "align-dfer"
    scale = 100.0

    def __init__(
        self,
        clip: Clip,
        classes: tuple[str, ...] = EXPRESSIONS,
        window: int = 16,
        tokens: int = 64,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.classes, self.window, self.preprocessing = classes, window, clip.preprocessing
        self._clip = clip
        self.clip_model: nn.Module = clip.model.requires_grad_(False)
        self.tokens = AlignmentTokens(clip, len(classes), window, tokens)
        self.synchronizer = Synchronizer(window, clip.width, layers)

    def train(self, mode: bool = True) -> AlignDfer:
        """Switch to training; CLIP stays in evaluation, as it is frozen."""
        super().train(mode)
        self.clip_model.eval()
        return self

    def encode_frames(self, frames: Tensor) -> Tensor:
        pixels = normalise_pixels(frames, self.preprocessing)
        features = self.clip_model.encode_image(pixels)  # type: ignore[operator]
        return functional.normalize(features, dim=-1)

    def pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.synchronizer(features)
        return pooled

    def class_matrix(self) -> Tensor:
        sentences = functional.normalize(self.tokens(self._clip), dim=-1)
        matrix: Tensor = self.synchronizer(sentences)
        return matrix

    def config(self) -> dict[str, Any]:
        return {
            "clip": self._clip.name,
            "preprocessing": self.preprocessing.to_json(),
            "classes": list(self.classes),
            "window": self.window,
            "tokens": self.tokens.tokens.shape[2],
            "layers": len(self.synchronizer.layers),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AlignDfer:
        """Rebuild the model of `config()`, with random weights."""
        from ...runtime.preprocessing import Preprocessing
        from ..clip import load_clip

        preprocessing = Preprocessing.from_json(config["preprocessing"])
        clip = load_clip(config["clip"], grey=preprocessing.grey, crop_size=preprocessing.size)
        return cls(clip, tuple(config["classes"]), config["window"], config["tokens"], config["layers"])
