"""FineCLIPER: frozen CLIP with adapters; class features are those of a positive text minus those of a negative one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ...runtime.errors import DferError, ParameterError
from ...runtime.labels import EXPRESSIONS
from ..captions import WEIGHT
from ..captions.contrast import CaptionTokens, contrast
from ..data import Batch
from ..landmarks import MIDDLE
from ..landmarks import WEIGHT as MIDDLE_WEIGHT
from ..landmarks.middle import KINDS, Middle, distil, mean_of
from ..models.adapters import PARALLEL, insert_adapters, insert_low_rank, make_adapters, make_low_rank, run_adapted
from ..models.clip import Clip
from ..models.descriptions import Sides, Texts, load_descriptions
from ..models.prompts import mean_of_units
from ..models.synchronizer import TemporalMean
from ..models.temporal import TemporalNet
from .frozen_clip import FrozenClip
from .method import cross_entropies, cross_entropy, normalise_pixels
from .phases import Phase, Plan, warm_cosine

POSITIVE = "a person with an expression of {}"
NEGATIVE = "a person with an expression of no {}"
"""The paper's templates (its figure 2)."""
_AT_ONCE = 64  # captions encoded per batch
ADAPTERS, ACTIVATIONS = ("bottleneck", "lora", "none"), ("gelu", "tower")


class FineCliper(FrozenClip):
    """p = softmax(v·M / τ), M = positive − negative text features, τ = 0.01.

    FineCLIPER (Chen et al., ACM MM 2024): adapters in every layer of the frozen image tower, and in the frozen text
    tower one set of adapters for positive and one for negative descriptions. Each side of M is normalised, M is not.
    The high level (captions) and the middle level (pictures of landmarks, here a teacher) each add a training loss;
    checkpoints and bundles contain neither. Our choices: the ratio, the temporal net, the optimiser, the caption loss
    and the distillation from pictures.

    clip: the CLIP to freeze; adapters need a transformer. window: T. layers: of the temporal net, None for the mean.
    length: tokens of the longest sentence. ratio: bottleneck width of adapters; half of it in the text tower.
    adapter: in the image tower, one of `ADAPTERS`; "lora" costs nothing after export. activation: of bottlenecks;
    with "tower" (the tower's own), the adapter parallel to the MLP costs almost nothing either. adapter_scale: factor
    of the parallel adapter in both towers (the paper's s).
    text_adapters, negatives: whether to use them. texts: number of texts per class, by side; None: one each.
    Raises ParameterError if adapters do not fit the image tower.
    """

    name = "finecliper"
    scale = 100.0
    default_plan: ClassVar[Plan] = Plan((30,), (3e-4,), (1,))

    def __init__(
        self,
        clip: Clip,
        classes: tuple[str, ...] = EXPRESSIONS,
        window: int = 16,
        layers: int | None = 1,
        length: int = 77,
        ratio: float = 0.25,
        adapter: str = "bottleneck",
        activation: str = "gelu",
        adapter_scale: float = PARALLEL,
        text_adapters: bool = True,
        negatives: bool = True,
        texts: list[list[int]] | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.window, self.preprocessing = classes, window, clip.preprocessing
        self._clip, self._ratio, self._adapter, self._activation = clip, ratio, adapter, activation
        self._adapter_scale = adapter_scale
        blocks: Any = getattr(getattr(clip.model.visual, "transformer", None), "resblocks", None)
        if adapter != "none" and blocks is None:
            raise ParameterError(
                "clip", f"{clip.name} has no transformer for images, so adapters do not fit; use a ViT, or none in it"
            )
        # Registered first, so that the parameters have these names before those within the blocks.
        self.image_adapters = nn.ModuleList()
        if adapter == "lora":
            self.image_adapters = make_low_rank(blocks)
        elif adapter == "bottleneck":
            kind = blocks[0].mlp.gelu if activation == "tower" else None
            self.image_adapters = make_adapters(blocks, ratio, kind, adapter_scale)
        sides = 2 if negatives else 1
        text_blocks = clip.text.model.transformer.resblocks
        self.text_adapters = nn.ModuleList(
            make_adapters(text_blocks, ratio / 2, scale=adapter_scale) if text_adapters else nn.ModuleList()
            for _ in range(sides)
        )
        self.caption_adapters = nn.ModuleList()
        self._captions: CaptionTokens | None = None
        self._caption_weight = WEIGHT
        self._caption_features: Tensor | None = None  # of all captions, if the text tower has no trained part
        self.middle: Middle | None = None
        self._middle_weight = MIDDLE_WEIGHT
        self.temporal: nn.Module = TemporalMean() if layers is None else TemporalNet(window, clip.width, layers)
        self.clip_model: nn.Module = clip.model.requires_grad_(False)
        if adapter != "none":
            (insert_low_rank if adapter == "lora" else insert_adapters)(blocks, self.image_adapters)
        self.sentences: Tensor  # embedded, of each side, class by class
        self.ends: Tensor
        self._texts = texts or [[1] * len(classes) for _ in range(sides)]
        most = max(map(sum, self._texts))  # a side with fewer is padded
        self.register_buffer("sentences", torch.zeros(sides, most, length, clip.text.width))
        self.register_buffer("ends", torch.zeros(sides, most, dtype=torch.int64))

    @classmethod
    def from_options(  # type: ignore[override]  # its own options in place of **options
        cls,
        clip: Clip,
        classes: tuple[str, ...],
        plan: Plan,
        *,
        descriptions: Path | None = None,
        ratio: float = 0.25,
        adapter: str = "bottleneck",
        activation: str = "gelu",
        adapter_scale: float = PARALLEL,
        no_text_adapters: bool = False,
        no_negatives: bool = False,
        no_temporal: bool = False,
        checkpointing: bool = False,
        captions: CaptionTokens | None = None,
        caption_weight: float = WEIGHT,
        middle: str | None = None,
        middle_weight: float = MIDDLE_WEIGHT,
    ) -> FineCliper:
        """Build a new model with the class names in the paper's templates.

        descriptions: JSON for `describe_classes`, in place of the templates.
        adapter: with "none" the image tower stays unchanged, and training uses stored features.
        checkpointing: gradient checkpointing in the image tower.
        captions: of training clips, by name. caption_weight: weight of their loss.
        middle: "distil" distils from the landmark pictures in batches. middle_weight: weight of that loss.
        """
        for option, weight, without in (
            ("caption_weight", caption_weight, "captions"),
            ("middle_weight", middle_weight, "the middle level"),
        ):
            if not 0 < weight < float("inf"):
                raise ParameterError(option, f"{weight} must be positive; without {without} there is none")
        if middle is not None and middle not in MIDDLE:
            raise ParameterError("middle", f"{middle!r} is not one of {', '.join(MIDDLE)}")
        if middle is not None and adapter == "none":
            raise ParameterError("middle", "reads pictures through adapters in the image tower; adapter=none has none")
        if not 0 < ratio <= 1:
            raise ParameterError("ratio", f"{ratio} must lie between 0 and 1")
        if not 0 < adapter_scale < float("inf"):
            raise ParameterError("adapter_scale", f"{adapter_scale} must be positive")
        for option, value, allowed in (("adapter", adapter, ADAPTERS), ("activation", activation, ACTIVATIONS)):
            if value not in allowed:
                raise ParameterError(option, f"{value!r} is not one of {', '.join(allowed)}")
        texts: dict[str, Texts] = {name: Sides((POSITIVE.format(name),), (NEGATIVE.format(name),)) for name in classes}
        method = cls(
            clip,
            classes,
            layers=None if no_temporal else plan.depths[0],
            ratio=ratio,
            adapter=adapter,
            activation=activation,
            adapter_scale=adapter_scale,
            text_adapters=not no_text_adapters,
            negatives=not no_negatives,
        )
        method._captions, method._caption_weight = captions, caption_weight
        if captions is not None and not no_text_adapters:
            blocks = clip.text.model.transformer.resblocks
            method.caption_adapters = make_adapters(blocks, ratio / 2, scale=adapter_scale)
        if middle is not None:
            method.middle, method._middle_weight = Middle(method._picture_adapters(), method.width), middle_weight
        method.describe_classes(texts if descriptions is None else load_descriptions(descriptions, classes))
        if checkpointing:
            clip.model.visual.set_grad_checkpointing(True)  # type: ignore[union-attr, operator]
        return method

    def pool(self, features: Tensor) -> Tensor:
        return functional.normalize(self.temporal(features), dim=-1)

    def class_matrix(self) -> Tensor:
        """Return positive minus negative features, each L2-normalised, or the mean of several such; without negatives,
        only the positive ones."""
        sides = []
        for number, counts in enumerate(self._texts):
            sentences, ends = (part[number, : sum(counts)] for part in (self.sentences, self.ends))
            features = self._encode(sentences, ends, self.text_adapters[number])  # type: ignore[arg-type]
            sides.append(mean_of_units(features, counts))
        return sides[0] - sides[1] if len(sides) > 1 else sides[0]

    @torch.no_grad()
    def describe_classes(self, texts: Mapping[str, Texts]) -> None:
        """Give the model classes, each described by a pair of texts (positive, negative) or by several of either
        (`Sides`). A model without negatives takes a tuple as positive texts only.

        Raises DferError for a class without negatives if the model uses them.
        """
        sides = [self._sides(name, several)[: len(self.text_adapters)] for name, several in texts.items()]
        tokens = [
            self._clip.tokenize([text for one in sides for text in one[side]])
            for side in range(len(self.text_adapters))
        ]
        self.classes = tuple(texts)
        self._texts = [[len(one[side]) for one in sides] for side in range(len(tokens))]
        filled = pad_sequence(tokens, batch_first=True)
        self.ends = filled.argmax(dim=-1)  # the end-of-text token has the highest number
        self.sentences = self._clip.text.embed(filled[..., : int(self.ends.max()) + 1])

    def _sides(self, name: str, texts: Texts) -> Sides:
        """Return the texts of a class by side; a model without negatives uses only the first side."""
        if isinstance(texts, Sides):
            return texts
        if len(self.text_adapters) == 1:
            return Sides(texts, ())
        if len(texts) != 2:
            raise DferError(
                f"{self.name} wants two texts for {name}: what it looks like, and what it does not; or several of "
                'each, as {"positive": […], "negative": […]}'
            )
        return Sides(texts[:1], texts[1:])

    def _encode(self, sentences: Tensor, ends: Tensor, adapters: nn.ModuleList) -> Tensor:
        """Return features [C,D] of embedded sentences [C,L,E]."""
        if not len(adapters):
            return self._clip.text.encode(sentences, ends)
        return self._clip.text.encode(sentences, ends, lambda blocks, x, mask: run_adapted(blocks, adapters, x, mask))

    def encode_captions(self, captions: Tensor) -> Tensor:
        """Return L2-normalised features [K,D] of captions by number (`CaptionTokens.draw`), using their own adapters.

        Without text adapters they never change, so they are computed once.
        """
        assert self._captions is not None
        if len(self.caption_adapters):
            return self._read_captions(self._captions, captions)
        if self._caption_features is None:
            with torch.no_grad():
                parts = torch.arange(len(self._captions)).split(_AT_ONCE)
                self._caption_features = torch.cat([self._read_captions(self._captions, part) for part in parts])
        return self._caption_features[captions.to(self._caption_features.device)]

    def _read_captions(self, tokens: CaptionTokens, captions: Tensor) -> Tensor:
        sentences, ends = tokens.embed(captions, self._clip, self.sentences.device)
        return functional.normalize(self._encode(sentences, ends, self.caption_adapters), dim=-1)

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        """Return the cross-entropy, plus the weighted caption loss of the clips that have captions, plus the loss of
        the landmark pictures.

        Negatives of a caption are the clips of other classes in this process's batch.
        """
        if self._captions is None and self.middle is None:
            return super().loss(batch, class_matrix, class_weights)
        features = self.encode_clips(batch.inputs)
        video = self.pool(features)
        matrix = self.class_matrix() if class_matrix is None else class_matrix
        logits = self.compare(video, matrix)
        loss = cross_entropy(logits, batch, class_weights)
        if self._captions is not None:
            places, captions = self._captions.draw(batch.names)
            if len(places):
                places = places.to(video.device)
                told = contrast(video[places], self.encode_captions(captions), batch.labels[places], self.scale)
                loss = loss + self._caption_weight * told
            else:  # DDP needs a gradient for every parameter in every process
                loss = loss + 0 * sum(value.sum() for value in self.caption_adapters.parameters())
        if self.middle is not None:
            loss = loss + self._learn_from_pictures(self.middle, batch, features, logits, matrix, class_weights)
        return loss

    def _learn_from_pictures(
        self,
        middle: Middle,
        batch: Batch,
        features: Tensor,
        logits: Tensor,
        class_matrix: Tensor,
        class_weights: Tensor | None,
    ) -> Tensor:
        """Return the middle level's own cross-entropy, plus the weighted KL divergence of the frames' logits from its.

        The first trains only the middle level: frames, temporal net and class matrix are detached. The second trains
        only the rest. Both are 0 for clips without pictures.
        """
        pictures = batch.pictures
        if pictures is None:
            pictures = batch.inputs.new_zeros((*batch.inputs.shape[:2], KINDS, *batch.inputs.shape[2:]))
        drawn = pictures.flatten(3).amax(dim=-1) > 0
        own = middle.encode(
            self.image_encoder, self.image_adapters, pictures, lambda some: normalise_pixels(some, self.preprocessing)
        )
        fused = middle.fuse(features.detach(), own, drawn)
        temporal = {name: value.detach() for name, value in self.temporal.named_parameters()}
        pooled = functional.normalize(functional_call(self.temporal, temporal, (fused,)), dim=-1)
        taught = self.compare(pooled, class_matrix.detach())
        losses = cross_entropies(taught, batch, class_weights)
        told = drawn.flatten(1).any(dim=1)
        return mean_of(losses, told) + self._middle_weight * distil(logits, taught, told)

    def _picture_adapters(self) -> list[nn.ModuleList]:
        """Make adapters for each kind of picture, of the image tower's type; bottlenecks are half as wide."""
        blocks: Any = self.image_encoder.transformer.resblocks  # type: ignore[union-attr]
        if self._adapter == "lora":
            return [make_low_rank(blocks) for _ in range(KINDS)]
        activation: Any = self.image_adapters[0].serial.activation  # type: ignore[union-attr]
        return [make_adapters(blocks, self._ratio / 2, activation, self._adapter_scale) for _ in range(KINDS)]

    def finished_state(self) -> dict[str, Tensor]:
        training_only = ("middle.", "caption_adapters.")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(training_only)}

    def phases(self, plan: Plan) -> list[Phase]:
        """Return one phase that trains adapters and temporal net together."""
        rate = plan.learning_rates[0]
        return [
            Phase(
                "adapters",
                plan.epochs[0],
                dict.fromkeys(("image_adapters", "text_adapters", "caption_adapters", "temporal", "middle"), rate),
                warm_cosine,
                trains_text=any(len(one) for one in self.text_adapters),  # type: ignore[arg-type]
            )
        ]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return AdamW, which AIM uses for adapters (our choice)."""
        return torch.optim.AdamW(groups, weight_decay=0.05)

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "layers": len(self.temporal.layers) if isinstance(self.temporal, TemporalNet) else None,
            "length": self.sentences.shape[2],
            "ratio": self._ratio,
            "adapter": self._adapter,
            "activation": self._activation,
            "adapter_scale": self._adapter_scale,
            "text_adapters": any(len(one) for one in self.text_adapters),  # type: ignore[arg-type]
            "negatives": len(self.text_adapters) == 2,
            "texts": self._texts,
        }
