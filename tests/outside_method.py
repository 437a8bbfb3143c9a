"""A method as another package would bring it: this one file, and an entry point that names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfer.runtime.bundle import Preprocessing
from dfer.train.data import Batch
from dfer.train.methods import Method
from dfer.train.methods.phases import Phase, Plan, warm_cosine
from dfer.train.models.clip import Clip, rebuild_clip


class Adapter(nn.Module):
    """A learned linear map with a skip, which begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = features + self.linear(features)
        return adapted


class MeanPool(Method):
    """The mean over time of a frozen CLIP's features against a learned class matrix.

    adapter: also learn an adapter at the end of the image encoder. seen: names of clips that the loss was asked about.
    """

    name = "mean-pool"
    scale = 20.0
    default_plan: ClassVar[Plan] = Plan((3,), (3e-2,))

    def __init__(self, clip: Clip, classes: tuple[str, ...], adapter: bool = False) -> None:
        super().__init__()
        self.classes, self.window, self.preprocessing = classes, 16, clip.preprocessing
        self._clip = clip
        self.clip_model: Any = clip.model.requires_grad_(False)
        self.adapter = Adapter(clip.width) if adapter else None
        self.classifier = nn.Parameter(torch.randn(len(classes), clip.width) * 0.02)

    @classmethod
    def from_options(  # type: ignore[override]
        cls, clip: Clip, classes: tuple[str, ...], plan: Plan, *, adapter: bool = False
    ) -> MeanPool:
        return cls(clip, classes, adapter)

    def config(self) -> dict[str, Any]:
        return {
            "clip": self._clip.identity,
            "preprocessing": self.preprocessing.to_json(),
            "classes": list(self.classes),
            "adapter": self.adapter is not None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MeanPool:
        clip = rebuild_clip(config["clip"], Preprocessing.from_json(config["preprocessing"]))
        return cls(clip, tuple(config["classes"]), config["adapter"])

    @property
    def image_encoder(self) -> nn.Module:
        return nn.ModuleList([self.clip_model.visual, *([self.adapter] if self.adapter else [])])

    @property
    def width(self) -> int:
        return self._clip.width

    def train(self, mode: bool = True) -> MeanPool:
        super().train(mode)
        self.clip_model.eval()
        return self

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = self.clip_model.encode_image(pixels)
        return functional.normalize(self.adapter(features) if self.adapter else features, dim=-1)

    def pool(self, features: Tensor) -> Tensor:
        return functional.normalize(features.mean(dim=1), dim=-1)

    def class_matrix(self) -> Tensor:
        return functional.normalize(self.classifier, dim=-1)

    def phases(self, plan: Plan) -> list[Phase]:
        rates = {"classifier": plan.learning_rates[0]}
        if self.adapter is not None:
            rates["adapter"] = plan.learning_rates[0]
        return [Phase("only", plan.epochs[0], rates, warm_cosine)]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        HEARD.append("optimizer")
        return torch.optim.AdamW(groups, weight_decay=0.0)

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        HEARD.extend(batch.names)
        return functional.multi_margin_loss(self(batch.inputs, class_matrix) / self.scale, batch.labels, margin=0.5)


HEARD: list[str] = []
"""That the method's own optimiser was made, and the names of the clips that its own loss was asked about."""


def install(folder: Path, names: Sequence[str] = (MeanPool.name,)) -> None:
    """What pip would leave in `folder` of a package that has this method."""
    info = folder / "mean_pool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-pool\nVersion: 1.0\n")
    lines = [f"{name} = {__name__}:MeanPool" for name in names]
    (info / "entry_points.txt").write_text("\n".join(["[dfer.methods]", *lines, ""]))
