"""Align-DFER: frozen CLIP, alignment tokens (MAT) for text, one synchronizer (JAS) for both sides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from ...runtime.errors import DferError, ParameterError
from ...runtime.labels import EXPRESSIONS
from ..models.clip import Clip
from ..models.descriptions import Texts, describe, positive_texts
from ..models.synchronizer import Synchronizer, TemporalMean
from ..models.tokens import AlignmentTokens, WordedSentences
from .bap import bap_phases
from .frozen_clip import FrozenClip
from .phases import Phase, Plan, warm_cosine

TOKENS = 16
"""T_tok of a new model; the paper has 64."""


class AlignDfer(FrozenClip):
    """p = softmax(cos(JAS(video frames), JAS(class sentences)) / τ), τ = 0.01.

    clip: the CLIP to freeze. window: T = S, frames per clip and sentences per class.
    tokens: T_tok, learned tokens per sentence (64 in the paper); 0 uses worded descriptions instead (ablation).
    video_layers, text_layers: depth of each side's dynamic encoder, None for the temporal mean.
    joint: use one synchronizer of `video_layers` for both sides (JAS); `text_layers` is ignored.
    single_step: train everything together for all epochs instead of by BAP (ablation).
    """

    name = "align-dfer"
    scale = 100.0
    default_plan: ClassVar[Plan] = Plan((40, 30, 30), (0.05, 0.05, 0.05), (1, 2, 3))

    def __init__(
        self,
        clip: Clip,
        classes: tuple[str, ...] = EXPRESSIONS,
        window: int = 16,
        tokens: int = 64,
        video_layers: int | None = 2,
        text_layers: int | None = None,
        joint: bool = True,
        single_step: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.window, self.preprocessing = classes, window, clip.preprocessing
        self._single_step = single_step
        self._clip = clip
        self.clip_model: nn.Module = clip.model.requires_grad_(False)
        self.sentences: AlignmentTokens | WordedSentences
        if tokens:
            self.sentences = AlignmentTokens(clip, len(classes), window, tokens)
        else:
            self.sentences = WordedSentences(len(classes), window, clip.width)
        self.video_side: nn.Module = _side(window, clip.width, video_layers)
        self.text_side: nn.Module = self.video_side if joint else _side(window, clip.width, text_layers)

    @classmethod
    def from_options(  # type: ignore[override]  # its own options in place of **options
        cls,
        clip: Clip,
        classes: tuple[str, ...],
        plan: Plan,
        *,
        tokens: int = TOKENS,
        no_mat: bool = False,
        no_jas: bool = False,
        single_step: bool = False,
        descriptions: Path | None = None,
    ) -> AlignDfer:
        """Build a new model. no_mat: use `descriptions` (a JSON file) or ours. no_jas: use the mean over time."""
        if descriptions is not None and not no_mat:
            raise ParameterError("descriptions", "align-dfer's tokens are wordless; texts are read without MAT only")
        if no_mat and tokens != TOKENS:
            raise ParameterError("tokens", "are MAT's, which no_mat takes out; leave one of the two out")
        if no_jas and (single_step or plan.depths != cls.default_plan.depths):
            idle = "single_step" if single_step else "depth"
            raise ParameterError(idle, "is for JAS, which no_jas takes out; leave one of the two out")
        if tokens < 1:
            raise ParameterError("tokens", f"{tokens}: a sentence needs at least one")
        layers = None if no_jas else plan.depths[-1]
        tokens = 0 if no_mat else tokens
        method = cls(clip, classes, tokens=tokens, video_layers=layers, single_step=single_step)
        if no_mat:
            method.describe_classes(describe(classes, descriptions))
        return method

    @property
    def temporal(self) -> nn.Module:  # type: ignore[override]  # it changes with BAP's steps
        """The video side."""
        return self.video_side

    def pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.video_side(features)
        return pooled

    def class_matrix(self) -> Tensor:
        sentences = functional.normalize(self.sentences(self._clip), dim=-1)
        matrix: Tensor = self.text_side(sentences)
        return matrix

    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Give the model classes described in words. Raises DferError if it has learned tokens."""
        if not isinstance(self.sentences, WordedSentences):
            raise DferError("alignment tokens are wordless; descriptions are for a model without them (tokens=0)")
        plain = positive_texts(texts, self.name)
        self.classes = tuple(plain)
        self.sentences = WordedSentences(len(plain), self.window, self.width)
        self.sentences.read(self._clip, list(plain.values()))

    def phases(self, plan: Plan) -> list[Phase]:
        """Return BAP's phases, or, for ablations, a single phase over all parts."""
        if isinstance(self.video_side, TemporalMean):
            return [Phase("mat", sum(plan.epochs), {"sentences": plan.learning_rates[0]}, warm_cosine)]
        if self._single_step:
            rates = {"sentences": plan.learning_rates[2], "video_side": plan.learning_rates[2]}
            return [Phase("single", sum(plan.epochs), rates, warm_cosine)]
        return bap_phases(self, plan)

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "tokens": self.sentences.tokens.shape[2] if isinstance(self.sentences, AlignmentTokens) else 0,
            "video_layers": _depth(self.video_side),
            "text_layers": _depth(self.text_side),
            "joint": self.text_side is self.video_side,
        }


def _side(window: int, width: int, layers: int | None) -> nn.Module:
    return TemporalMean() if layers is None else Synchronizer(window, width, layers)


def _depth(side: nn.Module) -> int | None:
    return len(side.layers) if isinstance(side, Synchronizer) else None
