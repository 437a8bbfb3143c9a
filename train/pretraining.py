"""Teaching a small CLIP faces before it is frozen: images are drawn to the fixed vector of what they show.

The class vectors are orthonormal and do not move: those of a text tower trained along collapse (cosines of 0.95 and
more between classes). Cross-entropy over cosine similarities times a learned scale is CLIP's loss with one text per
class (Radford et al. 2021, §2.3). When the image tower is done, the text tower is fitted to say the same: descriptions
of an expression are drawn to its vector. Images are single frames: photographs with votes or labels, and procedural
frames in every phase of an expression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..runtime.bundle import Preprocessing
from ..runtime.errors import DferError
from ..runtime.labels import EXPRESSIONS
from ..runtime.storage import atomic_write
from .checkpoints.states import read_state
from .data.augmentation import plain_view
from .data.batches import sampling_probabilities
from .data.images import Images, random_views
from .digests import weights_digest
from .methods.method import lay_out, normalise_pixels, standardise
from .models.averaging import moving_average
from .models.clip import Clip
from .models.descriptions import DESCRIPTIONS
from .precision import mixed_precision

STATE_FORMAT = "dfer-edge pre-training state 1"

_AT_ONCE = 256  # images that are classified together
_MAX_SCALE = 100.0  # of CLIP's learned 1/τ, as in its training
_TEXT_STEPS, _TEXT_RATE = 100, 5e-4  # the fit takes seconds; cosines are then above 0.99


@dataclass(frozen=True)
class PretrainSettings:
    """How to pre-train; steps × batch images are seen.

    balance: 0 draws images as they come, 1 draws all classes equally often, between them in between.
    average: decay of the moving average of the weights, which is what remains.
    early: share of the steps that see views of 3/4 of the size, which takes half the time; of towers of convolutions
        that begin at random.
    teacher: share of the targets that is a teacher's, where there is one.
    """

    steps: int = 7000
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    mixup: float = 0.2
    balance: float = 0.5
    average: float = 0.998
    early: float = 0.4
    teacher: float = 0.5
    seed: int = 0


class Pretraining:
    """One run over `sources`, image pools with the share of each batch they fill; `clip` is trained in place.

    clip: one that was pre-trained before goes on from there, towards the same class vectors.
    teacher: a CLIP that was pre-trained before, of any size; its probabilities for an image and its mirror image,
        averaged, are part of the targets (Furlanello et al. 2018).
    state: file to keep what is needed to go on after an interruption, to be removed when the weights are saved; None
        for no such file.
    compiled: let torch compile the image tower first: a minute, then a third faster; needs a C++ compiler.
    """

    def __init__(
        self,
        clip: Clip,
        sources: list[tuple[Images, float]],
        settings: PretrainSettings,
        teacher: Clip | None = None,
        state: Path | None = None,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(settings.seed)
        self._clip, self._sources, self._settings, self._state = clip, sources, settings, state
        self._identity = {} if state is None else self._identify(teacher)  # before anything is learned
        # Those that weights of an earlier run were drawn to, its descriptions tell.
        self.vectors = (
            class_features(clip).detach() if clip.taught else _orthonormal(len(EXPRESSIONS), clip.width, settings.seed)
        )
        self._learner = _Learner(clip, self.vectors).train()
        self._learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = torch.compile(self._learner) if compiled else self._learner
        self._teacher = None if teacher is None else _Learner(teacher, class_features(teacher).detach()).eval()
        self._teacher_size = None if teacher is None or teacher.resizable else teacher.preprocessing.encoder_size
        self._average = moving_average(self._learner, settings.average)
        groups = _parameter_groups(self._learner, settings.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            settings.learning_rate,
            total_steps=settings.steps,
            pct_start=max(0.04, 2 / settings.steps),  # of one step alone torch makes a division by zero
        )

    def run(self, resume: bool, progress: Callable[[int, float], object]) -> None:
        """Train; `clip` ends with the moving average of its image tower's weights, and a text tower that fits it.

        resume: go on from the state file where there is one; else from the start.
        progress: called after each step with its number (from 1) and the loss.
        Raises ParameterError for a state file of another run, DferError for a loss that is no longer a number.
        """
        settings = self._settings
        begin = self._read_state(self._state) if resume and self._state is not None and self._state.is_file() else 0
        every = max(1, settings.steps // 50)
        for step in range(begin + 1, settings.steps + 1):
            loss = self._step(step)
            if not np.isfinite(loss):
                raise DferError(f"step {step}: the loss is {loss}; lower the learning rate")
            if self._state is not None and step % every == 0 and step < settings.steps:
                self._write_state(step)
            progress(step, loss)
        self._learner.load_state_dict(self._average.module.state_dict())
        fit_text(self._clip, self.vectors)
        self._clip.model.eval()

    def size(self, step: int) -> int:
        """Side of the views that a step sees, pixels."""
        side = self._clip.preprocessing.encoder_size
        fresh = self._clip.resizable and not self._clip.taught
        return side * 3 // 4 if fresh and step <= self._settings.early * self._settings.steps else side

    def _step(self, step: int) -> float:
        """One step of the optimiser; its random numbers depend on nothing that came before. Returns the loss."""
        settings = self._settings
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0])
        )
        frames, targets = self._draw(np.random.default_rng([settings.seed, step]))
        views = random_views(frames, self.size(step), generator).expand(-1, 3, -1, -1)
        pixels = standardise(views, self._clip.preprocessing)
        if settings.mixup:
            pixels, targets = _mix(pixels, targets, settings.mixup, generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self._teacher is not None:
            with torch.no_grad(), mixed_precision():
                seen, size = pixels, self._teacher_size
                if size is not None:
                    seen = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
                both = self._teacher(torch.cat([seen, seen.flip(-1)])).softmax(dim=-1).chunk(2)
                targets = targets.lerp((both[0] + both[1]) / 2, settings.teacher)
        with mixed_precision():
            logits = self._forward(pixels)
        loss = functional.cross_entropy(logits, targets)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._learner.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._learner)
        return float(loss.detach())

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels float32 [B,C,128,128] in 0..1, grey if asked, and targets [B,C]: a share of the batch per source."""
        shares = np.array([share for _, share in self._sources])
        counts = np.round(self._settings.batch * shares / shares.sum()).astype(int)
        frames, targets = [], []
        for (images, _), count in zip(self._sources, counts, strict=True):
            chances = sampling_probabilities(images.labels, self._settings.balance)
            drawn = rng.choice(len(chances), count, p=chances)
            frames.append(images.frames[drawn])
            targets.append(images.targets[drawn])
        own = self._clip.preprocessing
        laid_out = Preprocessing(128, 128, own.mean, own.std, own.grey)
        pixels = lay_out(torch.from_numpy(np.concatenate(frames)).float(), laid_out)[:, : 1 if own.grey else 3] / 255
        return pixels, torch.from_numpy(np.concatenate(targets))

    def _identify(self, teacher: Clip | None) -> dict[str, Any]:
        """What an interrupted run must agree with to be gone on from."""
        pools = [[_digest(images.frames), _digest(images.targets), share] for images, share in self._sources]
        return {
            **asdict(self._settings),
            "clip": str(self._clip.identity),
            "preprocessing": str(self._clip.preprocessing),
            "pretrained": [self._clip.taught, weights_digest(self._clip.model.state_dict())],
            "teacher": None if teacher is None else weights_digest(teacher.model.state_dict()),
            "images": pools,
        }

    def _write_state(self, step: int) -> None:
        assert self._state is not None
        content = {
            "format": STATE_FORMAT,
            "identity": self._identity,
            "step": step,
            "weights": self._learner.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        with atomic_write(self._state) as aside:
            torch.save(content, aside)

    def _read_state(self, path: Path) -> int:
        """Take the state file's weights; returns the steps that are done."""
        state = read_state(path, STATE_FORMAT, self._identity)
        self._learner.load_state_dict(state["weights"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        return int(state["step"])


class _Learner(nn.Module):
    """Normalised pixels [N,3,S,S] → class logits float32 [N,C]: cosines with class vectors times the learned scale."""

    def __init__(self, clip: Clip, vectors: Tensor) -> None:
        super().__init__()
        model: Any = clip.model
        self.visual, self.logit_scale = model.visual, model.logit_scale
        self.vectors: Tensor
        self.register_buffer("vectors", vectors)

    def forward(self, pixels: Tensor) -> Tensor:
        features = functional.normalize(self.visual(pixels).float(), dim=-1)
        with torch.autocast(features.device.type, enabled=False):
            scale = self.logit_scale.exp().clamp(max=_MAX_SCALE)
            return torch.as_tensor(scale * features @ self.vectors.T)


def fit_text(clip: Clip, vectors: Tensor) -> None:
    """Train the text tower of `clip` so that the descriptions of each class have its vector, float32 [C,D].

    Its word embeddings stay: a few dozen words cannot teach 49,408 of them.
    """
    tokens = description_tokens(clip)
    clip.text.model.token_embedding.requires_grad_(False)
    tower = {id(parameter) for parameter in clip.model.visual.parameters()} | {id(clip.model.logit_scale)}  # type: ignore[union-attr]
    learned = [one for one in clip.model.parameters() if one.requires_grad and id(one) not in tower]
    optimizer = torch.optim.Adam(learned, lr=_TEXT_RATE)
    wanted = vectors.repeat_interleave(len(tokens) // len(vectors), dim=0)
    for _ in range(_TEXT_STEPS):
        loss = 1 - (_sentence_features(clip, tokens) * wanted).sum(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def class_features(clip: Clip) -> Tensor:
    """Float32 [C,D]: the mean text feature of each class's descriptions; L2-normalised rows."""
    features = _sentence_features(clip, description_tokens(clip))
    return functional.normalize(features.unflatten(0, (len(EXPRESSIONS), -1)).mean(dim=1), dim=-1)


@torch.inference_mode()
def classify(clip: Clip, images: Images) -> NDArray[np.float32]:
    """Probabilities float32 [N,C] of the images' test views: softmax of cosines times the learned scale."""
    learner = _Learner(clip, class_features(clip)).eval()
    rows = []
    for start in range(0, len(images.frames), _AT_ONCE):
        views = plain_view(images.frames[start : start + _AT_ONCE], clip.preprocessing.size)
        rows.append(learner(normalise_pixels(torch.from_numpy(views), clip.preprocessing)).softmax(dim=-1).numpy())
    return np.concatenate(rows)


def description_tokens(clip: Clip) -> Tensor:
    """Token ids [C·S, 77] of all descriptions, class after class."""
    return clip.tokenize([sentence for label in EXPRESSIONS for sentence in DESCRIPTIONS[label]])


def _sentence_features(clip: Clip, tokens: Tensor) -> Tensor:
    """L2-normalised text features [N,D] of token ids [N,77]."""
    end = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
    embedded = clip.text.embed(tokens[:, : int(end.max()) + 1])
    return functional.normalize(clip.text.encode(embedded, end), dim=-1)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _orthonormal(count: int, width: int, seed: int) -> Tensor:
    """`count` random vectors float32 [count, width] of length 1, at right angles to each other."""
    drawn = torch.randn(width, count, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(drawn)[0]
    return basis.T.contiguous()


def _parameter_groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _mix(pixels: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): blend every image and target with those of another."""
    seed = int(torch.randint(2**31, (), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(len(pixels), generator=generator)
    return pixels.lerp(pixels[order], 1 - weight), targets.lerp(targets[order], 1 - weight)
