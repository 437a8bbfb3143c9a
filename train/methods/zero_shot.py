"""Zero-shot: a frozen CLIP that compares videos with descriptions of the classes; it is trained on no labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.labels import EXPRESSIONS
from ..captions.contrast import CaptionTokens, contrast
from ..data import Batch
from ..models.clip import Clip
from ..models.descriptions import Texts, load_descriptions, positive_texts
from ..models.prompts import mean_of_units
from ..models.synchronizer import Synchronizer, TemporalMean
from .frozen_clip import FrozenClip
from .phases import Phase, Plan, warm_cosine

TEMPLATES = (
    "a person with an expression of {}",
    "an expression of {}",
    "a photo of a face that shows {}",
)
"""Texts of a class without a description (our choice)."""
_AT_ONCE = 64  # texts encoded per batch


class ZeroShot(FrozenClip):
    """p = softmax(v·M / τ), v L2-normalised, τ = 0.01; a class's row of M is the mean of its texts' unit vectors.

    Without captions, nothing is trained: this is plain CLIP (Radford et al. 2021) with the mean over time, except that
    the mean of a class's texts is not normalised again. With captions, a temporal part is trained by symmetric InfoNCE
    between clips and their captions, with both towers frozen, as in EmoCLIP (Foteinopoulou and Patras 2023, arXiv
    2310.16640), which has 2 layers too. Our choices: a `Synchronizer`, which starts as the mean over time, so that
    training starts from plain CLIP; a fixed τ; the optimiser. Labels are used neither to train nor to choose an epoch.

    clip: the CLIP to freeze. window: T. layers: of the temporal part, None for the mean.
    """

    name = "zero-shot"
    scale = 100.0
    labelled = False
    default_plan: ClassVar[Plan] = Plan((30,), (3e-4,), (2,))

    def __init__(
        self, clip: Clip, classes: tuple[str, ...] = EXPRESSIONS, window: int = 16, layers: int | None = None
    ) -> None:
        super().__init__()
        self.classes, self.window, self.preprocessing = classes, window, clip.preprocessing
        self._clip = clip
        self._captions: CaptionTokens | None = None
        self._caption_features: Tensor | None = None
        self.clip_model: nn.Module = clip.model.requires_grad_(False)
        self.temporal: nn.Module = TemporalMean()
        if layers is not None:
            self.temporal = Synchronizer.grown(window, clip.width, layers)
        self.matrix: Tensor  # the text tower is frozen, so this is computed once
        self.register_buffer("matrix", torch.zeros(len(classes), clip.width))

    @classmethod
    def from_options(  # type: ignore[override]  # its own options in place of **options
        cls,
        clip: Clip,
        classes: tuple[str, ...],
        plan: Plan,
        *,
        descriptions: Path | None = None,
        captions: CaptionTokens | None = None,
    ) -> ZeroShot:
        """Build a new model of `classes`, from their names in `TEMPLATES` or from `descriptions` (a JSON file).

        captions: of training clips, by name; without them there is nothing to train.
        """
        method = cls(clip, classes, layers=None if captions is None else plan.depths[0])
        method._captions = captions
        named: dict[str, Texts] = {name: tuple(one.format(name) for one in TEMPLATES) for name in classes}
        method.describe_classes(named if descriptions is None else load_descriptions(descriptions, classes))
        return method

    def pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.temporal(features)
        return pooled

    def class_matrix(self) -> Tensor:
        return self.matrix

    @torch.no_grad()
    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Give the model classes with one or more texts each. Raises DferError for negatives, which it cannot use."""
        plain = positive_texts(texts, self.name)
        tokens = self._clip.tokenize([text for several in plain.values() for text in several]).to(self.matrix.device)
        features = [
            self._clip.text.encode(self._clip.text.embed(part), part.argmax(dim=-1)) for part in tokens.split(_AT_ONCE)
        ]
        self.classes = tuple(plain)
        self.matrix = mean_of_units(torch.cat(features), [len(several) for several in plain.values()])

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        """Return symmetric InfoNCE of the batch's clips and a random caption of each; other clips are the negatives."""
        assert self._captions is not None  # without, there is no phase
        video = self.pool(self.encode_clips(batch.inputs))
        places, captions = self._captions.draw(batch.names)
        numbers = {name: number for number, name in enumerate(batch.names)}
        clips = torch.tensor([numbers[batch.names[place]] for place in places.tolist()])  # a clip may be drawn twice
        told = self._encode_captions()[captions.to(video.device)]
        return contrast(video[places.to(video.device)], told, clips.to(video.device), self.scale)

    @torch.no_grad()
    def retrieved(self, batch: Batch) -> Tensor:
        """Return bool [B]: whether no caption in the batch is closer to the clip than its own best one."""
        assert self._captions is not None
        video = self.pool(self.encode_clips(batch.inputs)).float()
        similarities = video @ self._encode_captions().T
        rows = [list(self._captions.rows(name)) for name in batch.names]
        closest = similarities[:, sorted({row for own in rows for row in own})].amax(dim=1)
        return torch.stack([similarities[place, own].amax() for place, own in enumerate(rows)]) >= closest

    def _encode_captions(self) -> Tensor:
        """Return L2-normalised features [K,D] of all captions, computed once."""
        if self._caption_features is None:
            assert self._captions is not None
            device, found = self.matrix.device, []
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                for part in torch.arange(len(self._captions)).split(_AT_ONCE):
                    found.append(self._clip.text.encode(*self._captions.embed(part, self._clip, device)))
                self._caption_features = functional.normalize(torch.cat(found), dim=-1)
        return self._caption_features

    def phases(self, plan: Plan) -> list[Phase]:
        """Return one phase that trains the temporal part; none without captions."""
        if self._captions is None:
            return []
        return [Phase("captions", plan.epochs[0], {"temporal": plan.learning_rates[0]}, warm_cosine, trains_text=False)]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, weight_decay=0.05)

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "layers": len(self.temporal.layers) if isinstance(self.temporal, Synchronizer) else None,
        }
