"""DFER-CLIP: fine-tuned image encoder of CLIP, temporal net with a class token, prompts that describe the face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from ...runtime.bundle import Preprocessing
from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS
from ..checkpoints.dfer_clip_checkpoint import load_dfer_clip_checkpoint
from ..models.clip import Clip, rebuild_clip
from ..models.descriptions import Texts, describe, positive_texts
from ..models.prompts import DescribedPrompts, mean_of_units
from ..models.temporal import TemporalNet
from .method import Method
from .phases import Phase, Plan, two_drops


class DferClip(Method):
    """p = softmax(cos(temporal net(video frames), text encoder(prompts)) / τ), τ = 0.01.

    DFER-CLIP (Zhao and Patras, BMVC 2023), as in its published code. Pixels are only divided by 255: mean and standard
    deviation of `clip.preprocessing` are not used. The text encoder is always frozen.

    clip: the CLIP to fine-tune; crops have its `preprocessing.size` (published: 224). prompts: of all classes.
    window: T. layers: depth of the temporal net. freeze_image_encoder: freeze CLIP's image encoder too.
    texts: number of prompts of each class; None: one each.
    Raises DferError if the numbers of prompts and classes do not match.
    """

    name = "dfer-clip"
    scale = 100.0
    default_plan: ClassVar[Plan] = Plan((50,), (1e-2, 1e-3, 1e-5), (1,))
    augmentation: ClassVar[str] = "resized-crop"

    def __init__(
        self,
        clip: Clip,
        prompts: DescribedPrompts,
        classes: tuple[str, ...] = EXPRESSIONS,
        window: int = 16,
        layers: int = 1,
        freeze_image_encoder: bool = False,
        texts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._texts = list(texts or [1] * len(classes))
        if prompts.classes != sum(self._texts) or len(self._texts) != len(classes):
            raise DferError(
                f"{prompts.classes} prompts for {len(classes)} classes; give one description for each class"
            )
        self.classes, self.window = classes, window
        self.preprocessing = replace(clip.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.freeze_image_encoder = freeze_image_encoder
        self._clip = clip
        self.clip_model: nn.Module = clip.model.requires_grad_(False)
        self.image_encoder.requires_grad_(not freeze_image_encoder)
        self.prompts = prompts
        self.temporal: TemporalNet = TemporalNet(window, clip.width, layers)

    @classmethod
    def from_options(  # type: ignore[override]  # its own options in place of **options
        cls,
        clip: Clip,
        classes: tuple[str, ...],
        plan: Plan,
        *,
        descriptions: Path | None = None,
        freeze_image_encoder: bool = False,
    ) -> DferClip:
        """Build a new model whose prompts end in the first of each class's `descriptions` (a JSON file), or in ours."""
        described = positive_texts(describe(classes, descriptions), cls.name)
        prompts = DescribedPrompts.from_sentences(clip, [described[name][0] for name in classes])
        return cls(clip, prompts, classes, layers=plan.depths[0], freeze_image_encoder=freeze_image_encoder)

    @classmethod
    def load_published(cls, path: Path) -> tuple[DferClip, dict[str, Any]]:
        """Load a checkpoint of DFER-CLIP's published code; see `load_dfer_clip_checkpoint`."""
        return load_dfer_clip_checkpoint(path, cls)

    @property
    def image_encoder(self) -> nn.Module:
        """The part of CLIP that is fine-tuned."""
        encoder: nn.Module = self.clip_model.visual  # type: ignore[assignment]
        return encoder

    def train(self, mode: bool = True) -> DferClip:
        """Set training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self.clip_model.eval()
        if not self.freeze_image_encoder:
            self.image_encoder.train(mode)
        return self

    @property
    def width(self) -> int:
        return self._clip.width

    def phases(self, plan: Plan) -> list[Phase]:
        """Return one phase, with learning rates for temporal net, prompts and image encoder."""
        temporal, prompts, encoder = plan.learning_rates
        rates = {"temporal": temporal, "prompts": prompts}
        if not self.freeze_image_encoder:
            rates["clip_model.visual"] = encoder
        return [Phase("fine-tuning", plan.epochs[0], rates, two_drops)]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.clip_model.encode_image(pixels)  # type: ignore[operator]
        return features

    def pool(self, features: Tensor) -> Tensor:
        return functional.normalize(self.temporal(features), dim=-1)

    def class_matrix(self) -> Tensor:
        return mean_of_units(self.prompts(self._clip), self._texts)

    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Put each text of a class after the learned context. Raises DferError if contexts are class-specific."""
        context = self.prompts.context
        if context.ndim == 3:
            super().describe_classes(texts)
        plain = positive_texts(texts, self.name)
        sentences = [text for several in plain.values() for text in several]
        prompts = DescribedPrompts.from_sentences(self._clip, sentences, len(context), class_specific=False)
        prompts.context = context
        self.classes, self.prompts = tuple(texts), prompts
        self._texts = [len(several) for several in plain.values()]

    def config(self) -> dict[str, Any]:
        return {
            "clip": self._clip.identity,
            "preprocessing": self.preprocessing.to_json(),
            "prompts": self.prompts.config(),
            "classes": list(self.classes),
            "window": self.window,
            "layers": len(self.temporal.layers),
            "freeze_image_encoder": self.freeze_image_encoder,
            "texts": self._texts,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DferClip:
        """Rebuild the model of `config()`, with random weights and empty prompts."""
        return cls(
            rebuild_clip(config["clip"], Preprocessing.from_json(config["preprocessing"])),
            DescribedPrompts(**config["prompts"]),
            tuple(config["classes"]),
            config["window"],
            config["layers"],
            config["freeze_image_encoder"],
            config.get("texts"),
        )
