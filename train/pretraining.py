"""Pre-training of a small CLIP on faces before it is frozen: images are pulled towards the fixed vector of their class.

The class vectors are orthonormal and fixed: with a jointly trained text tower they would collapse (cosines of 0.95 and
more between classes). Cross-entropy over cosine similarities times a learned scale is CLIP's loss with one text per
class (Radford et al. 2021, §2.3). After the image tower, the text tower is fitted to match: descriptions
of an expression are pulled towards its vector. Images are single frames: photographs with votes or labels, and
procedural frames in every phase of an expression.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from .data.images import Images, random_views, with_hands
from .digests import weights_digest
from .methods.method import lay_out, normalise_pixels, standardise
from .models.averaging import moving_average
from .models.clip import Clip
from .models.descriptions import DESCRIPTIONS
from .precision import mixed_precision

STATE_FORMAT = "dfer-edge pre-training state 1"

_AT_ONCE = 256  # images classified per batch
_MAX_SCALE = 100.0  # of CLIP's learned 1/τ, as in its training
_TEXT_STEPS, _TEXT_RATE = 100, 5e-4  # the fit takes seconds; cosines are then above 0.99


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of pre-training, which sees steps × batch images.

    balance: 0 draws images as they come, 1 draws all classes equally often; values between interpolate.
    average: decay of the moving average of the weights, which is the result.
    early: share of the steps with views of 3/4 of the size, which takes half the time; only for convolutional towers
        that start from random weights.
    teacher: weight of the teacher's probabilities in the targets, if there is a teacher.
    hands: share of the images with a hand before the lower face; the teacher is not shown it.
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
    hands: float = 0.2
    seed: int = 0


class Pretraining:
    """One run over `sources`, image pools with the share of each batch they fill; `clip` is trained in place.

    clip: if already pre-trained, training continues towards the same class vectors.
    teacher: a pre-trained CLIP of any size; its probabilities for an image and its mirror image,
        averaged, are part of the targets (Furlanello et al. 2018).
    state: file from which an interrupted run can resume, to be removed when the weights are saved; None for no file.
    compiled: compile the image tower first with torch: takes a minute, then a third faster; needs a C++ compiler.
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
        # The class vectors of an earlier run are the features of its descriptions.
        self.vectors = (
            class_features(clip).detach() if clip.taught else _orthonormal(len(EXPRESSIONS), clip.width, settings.seed)
        )
        self._learner = _Learner(clip, self.vectors).train()
        self._forward = torch.compile(self._learner) if compiled else self._learner
        self._teacher = None if teacher is None else _Teacher(teacher)
        self._average = moving_average(self._learner, settings.average)
        groups = _parameter_groups(self._learner, settings.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            settings.learning_rate,
            total_steps=settings.steps,
            pct_start=max(0.04, 2 / settings.steps),  # with a single warm-up step torch divides by zero
        )

    def run(self, resume: bool, progress: Callable[[int, float], object]) -> None:
        """Train; `clip` ends with the moving average of its image tower's weights, and a text tower fitted to it.

        resume: continue from the state file if it exists, else start anew.
        progress: called after each step with its number (from 1) and the loss.
        Raises ParameterError for a state file of another run, DferError for a loss that is NaN or infinite.
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
        """Return the side of the views in a step, pixels."""
        side = self._clip.preprocessing.encoder_size
        fresh = self._clip.resizable and not self._clip.taught
        return side * 3 // 4 if fresh and step <= self._settings.early * self._settings.steps else side

    def _step(self, step: int) -> float:
        """Run one optimiser step and return its loss; its random numbers depend only on the seed and `step`."""
        settings = self._settings
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0])
        )
        frames, targets = self._draw(np.random.default_rng([settings.seed, step]))
        views = random_views(frames, self.size(step), generator).expand(-1, 3, -1, -1)
        if settings.mixup:
            views, targets = _mix(views, targets, settings.mixup, generator)
        if self._teacher is not None:
            targets = targets.lerp(self._teacher.classify(views), settings.teacher)
        shown = with_hands(views, settings.hands, generator)
        pixels = _normalised(shown, self._clip.preprocessing).contiguous(memory_format=torch.channels_last)
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
        """Draw a batch, with each source's share: pixels float32 [B,3,128,128] in 0..1 ([B,1,128,128] if nobody
        sees colour) and targets [B,C]."""
        shares = np.array([share for _, share in self._sources])
        counts = np.round(self._settings.batch * shares / shares.sum()).astype(int)
        frames, targets = [], []
        for (images, _), count in zip(self._sources, counts, strict=True):
            chances = sampling_probabilities(images.labels, self._settings.balance)
            drawn = rng.choice(len(chances), count, p=chances)
            frames.append(images.frames[drawn])
            targets.append(images.targets[drawn])
        own = self._clip.preprocessing
        grey = own.grey and (self._teacher is None or self._teacher.preprocessing.grey)
        laid_out = Preprocessing(128, 128, own.mean, own.std, grey)
        pixels = lay_out(torch.from_numpy(np.concatenate(frames)).float(), laid_out)[:, : 1 if grey else 3] / 255
        return pixels, torch.from_numpy(np.concatenate(targets))

    def _identify(self, teacher: Clip | None) -> dict[str, Any]:
        """Return the settings and digests that a resumed run must share with the interrupted one."""
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
        """Load the state file; return the number of steps done."""
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
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # CPUs convolve a quarter faster

    def forward(self, pixels: Tensor) -> Tensor:
        features = functional.normalize(self.visual(pixels).float(), dim=-1)
        with torch.autocast(features.device.type, enabled=False):
            scale = self.logit_scale.exp().clamp(max=_MAX_SCALE)
            return torch.as_tensor(scale * features @ self.vectors.T)


class _Teacher:
    """A pre-trained CLIP that classifies the views a student learns from."""

    def __init__(self, clip: Clip) -> None:
        self.preprocessing = clip.preprocessing
        self._size = None if clip.resizable else clip.preprocessing.encoder_size
        self._learner = _Learner(clip, class_features(clip).detach()).eval()

    def classify(self, views: Tensor) -> Tensor:
        """Return probabilities [N,C] for views [N,3,S,S], 0..1, averaged with those for their mirror images."""
        with torch.no_grad(), mixed_precision():
            seen = _normalised(views, self.preprocessing)
            if self._size is not None:
                seen = functional.interpolate(seen, (self._size, self._size), mode="bilinear", antialias=True)
            plain, mirrored = self._learner(torch.cat([seen, seen.flip(-1)])).softmax(dim=-1).chunk(2)
            return torch.as_tensor((plain + mirrored) / 2)


def fit_text(clip: Clip, vectors: Tensor) -> None:
    """Train the text tower of `clip` to map the descriptions of each class to its vector, float32 [C,D].

    Its word embeddings stay frozen: a few dozen words cannot train 49,408 of them.
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
    """Return float32 [C,D]: the mean text feature of each class's descriptions, L2-normalised."""
    features = _sentence_features(clip, description_tokens(clip))
    return functional.normalize(features.unflatten(0, (len(EXPRESSIONS), -1)).mean(dim=1), dim=-1)


@torch.inference_mode()
def classify(clip: Clip, images: Images) -> NDArray[np.float32]:
    """Return probabilities float32 [N,C] of the images' test views: softmax of cosines times the learned scale."""
    learner = _Learner(clip, class_features(clip)).eval()
    rows = []
    for start in range(0, len(images.frames), _AT_ONCE):
        views = plain_view(images.frames[start : start + _AT_ONCE], clip.preprocessing.size)
        rows.append(learner(normalise_pixels(torch.from_numpy(views), clip.preprocessing)).softmax(dim=-1).numpy())
    return np.concatenate(rows)


def description_tokens(clip: Clip) -> Tensor:
    """Return token ids [C·S, 77] of all descriptions, class by class."""
    return clip.tokenize([sentence for label in EXPRESSIONS for sentence in DESCRIPTIONS[label]])


def _sentence_features(clip: Clip, tokens: Tensor) -> Tensor:
    """Return L2-normalised text features [N,D] of token ids [N,77]."""
    end = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
    embedded = clip.text.embed(tokens[:, : int(end.max()) + 1])
    return functional.normalize(clip.text.encode(embedded, end), dim=-1)


def _normalised(views: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Make views [N,3,S,S], 0..1, grey if `preprocessing` says so, and normalise them as it says."""
    as_they_are = replace(preprocessing, size=1, encoder_size=1)  # no change of size
    return standardise(lay_out(views.permute(0, 2, 3, 1), as_they_are), preprocessing)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _orthonormal(count: int, width: int, seed: int) -> Tensor:
    """Return random orthonormal vectors float32 [count, width]."""
    drawn = torch.randn(width, count, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(drawn)[0]
    return basis.T.contiguous()


def _parameter_groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Return parameter groups with weight decay on matrices and kernels only."""
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
