"""A student: a small image tower trained to reproduce a teacher's features, followed by the teacher's head."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.bundle import Preprocessing
from ...runtime.errors import DferError, ParameterError
from ..data import Batch
from ..models.clip import Clip
from ..models.temporal import build_temporal, temporal_config
from ..models.tower import build_tower, inherit
from .method import Method
from .phases import Phase, Plan, warm_cosine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which most of timm's models use."""
DISTILLATION, TUNING = "distillation", "tuning"
"""The training steps of a student."""

_KL = 0.1  # loss weight; at 1, its gradients dominated those of the features, and agreement was lower too


class Student(Method):
    """Class probabilities of any method's head, on features of a timm model.

    There is no text side: the class matrix is a parameter that starts as the teacher's and whose rows keep their
    length. `loss` distils if a batch has the teacher's features, else it is cross-entropy.

    tower, image_size: timm's name, and the side of its input in pixels. length: factor on features, the mean norm of
    the teacher's; None if those are L2-normalised. temporal: the teacher's temporal part (see
    `temporal_config`). scale: the teacher's 1/τ.
    """

    name = "student"
    default_plan: ClassVar[Plan] = Plan((20,), (3e-4,))

    def __init__(
        self,
        tower: str,
        image_size: int,
        width: int,
        temporal: dict[str, Any],
        classes: tuple[str, ...],
        window: int,
        scale: float,
        length: float | None = None,
        grey: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.window, self.scale = classes, window, scale
        self.preprocessing = Preprocessing(image_size, image_size, MEAN, STD, grey)
        self._name, self._width, self._length = tower, width, length
        self.tower = build_tower(tower, width, image_size)
        self.temporal = build_temporal(temporal, window, width)
        self.matrix = nn.Parameter(torch.zeros(len(classes), width))
        self.row_lengths: Tensor
        self.register_buffer("row_lengths", torch.ones(len(classes), 1))

    @classmethod
    @torch.no_grad()
    def of_teacher(cls, teacher: Method, tower: str, image_size: int, length: float | None) -> Student:
        """Build an untrained student with the teacher's head and, if the towers are of one architecture, the teacher's
        weights for its layers. Raises what `check_teacher` and `build_tower` raise."""
        config = check_teacher(teacher)
        student = cls(
            tower,
            image_size,
            teacher.width,
            config,
            teacher.classes,
            teacher.window,
            teacher.scale,
            length,
            teacher.preprocessing.grey,
        )
        inherit(student.tower, teacher.image_encoder)
        student.temporal.load_state_dict(teacher.temporal.state_dict())
        matrix = teacher.class_matrix()
        student.matrix.copy_(matrix)
        student.row_lengths.copy_(matrix.norm(dim=-1, keepdim=True))
        student.confidence = teacher.confidence
        return student

    @classmethod
    def from_options(cls, clip: Clip, classes: tuple[str, ...], plan: Plan, **options: Any) -> Student:
        """Raise ParameterError: a student needs its teacher."""
        raise ParameterError("method", "a student learns from a trained model; use dfer-distill")

    @property
    def image_encoder(self) -> nn.Module:
        return self.tower

    @property
    def width(self) -> int:
        return self._width

    def train(self, mode: bool = True) -> Student:
        """Set training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in (self.tower, self.temporal):
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        return self

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.tower(pixels).float()
        return functional.normalize(features, dim=-1) if self._length is None else features * self._length

    def pool(self, features: Tensor) -> Tensor:
        return functional.normalize(self.temporal(features), dim=-1)

    def class_matrix(self) -> Tensor:
        return functional.normalize(self.matrix, dim=-1) * self.row_lengths

    def frame_logits(self, features: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Return logits float32 [N,C] of single frames' features [N,D], each repeated to fill a window."""
        return self.logits(features[:, None].expand(-1, self.window, -1), class_matrix)

    def forward(self, inputs: Tensor, class_matrix: Tensor | None = None) -> Tensor:
        """Return logits [N,C] of clips, as any method does, or of single crops uint8 [N,H,W,3]."""
        if inputs.ndim == 4:
            return self.frame_logits(self.encode_frames(inputs), class_matrix)
        return super().forward(inputs, class_matrix)

    def loss(self, batch: Batch, class_matrix: Tensor | None, class_weights: Tensor | None) -> Tensor:
        """Return, with the teacher's features: 1 − cosine + squared error (in units of `length`) + 0.1 × KL divergence
        of the head's class probabilities, from student and teacher features repeated T times."""
        if batch.taught is None:
            return super().loss(batch, class_matrix, class_weights)
        features, wanted = self.encode_frames(batch.inputs), batch.taught
        cosine = functional.cosine_similarity(features, wanted, dim=-1).mean()
        error = ((features - wanted) / (self._length or 1.0)).square().sum(dim=-1).mean()
        told = self.frame_logits(features, class_matrix).log_softmax(dim=-1)
        with torch.no_grad():
            right = self.frame_logits(wanted, class_matrix).log_softmax(dim=-1)
        return 1 - cosine + error + _KL * functional.kl_div(told, right, log_target=True, reduction="batchmean")

    def phases(self, plan: Plan) -> list[Phase]:
        """Return the phase of tuning on labelled clips: it trains the temporal part and the class matrix."""
        rates = {"temporal": plan.learning_rates[0], "matrix": plan.learning_rates[0]}
        return [Phase(TUNING, plan.epochs[0], rates, warm_cosine)]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return AdamW with weight decay on matrices and kernels only."""
        matrices = [{**group, "params": [p for p in group["params"] if p.ndim >= 2]} for group in groups]
        others = [
            {**group, "params": [p for p in group["params"] if p.ndim < 2], "weight_decay": 0.0} for group in groups
        ]
        return torch.optim.AdamW([group for group in (*matrices, *others) if group["params"]], weight_decay=0.05)

    def config(self) -> dict[str, Any]:
        return {
            "tower": self._name,
            "image_size": self.preprocessing.size,
            "width": self._width,
            "temporal": temporal_config(self.temporal),
            "classes": list(self.classes),
            "window": self.window,
            "scale": self.scale,
            "length": self._length,
            "grey": self.preprocessing.grey,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Student:
        return cls(**{**config, "classes": tuple(config["classes"])})


def distillation_phase(epochs: int, learning_rate: float) -> Phase:
    """Return the phase of distillation: it trains only the tower."""
    return Phase(DISTILLATION, epochs, {"tower": learning_rate}, warm_cosine, trains_text=False)


def check_teacher(teacher: Method) -> dict[str, Any]:
    """Return the configuration of a teacher's temporal part. Raises DferError if a student cannot take it over."""
    try:
        return temporal_config(teacher.temporal)
    except (AttributeError, TypeError) as error:
        raise DferError(f"{teacher.name} has no temporal part that a student can take over ({error})") from error
