"""Teaching a small CLIP faces before it is frozen: image–text contrast with descriptions of the expressions.

Each image is drawn to the mean text feature of its class's descriptions and away from the other classes', by
cross-entropy over cosine similarities (CLIP's loss with one text per class). Images are single frames: stills and
procedural frames in every phase of an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..runtime.labels import EXPRESSIONS
from ..runtime.procedural.expressions import APEX
from .data.augmentation import augmented_view, plain_view
from .data.batches import sampling_probabilities
from .data.procedural import ProceduralClips
from .data.stills import StillClips
from .methods import normalise_pixels
from .models.averaging import moving_average
from .models.clip import Clip
from .models.descriptions import DESCRIPTIONS
from .precision import mixed_precision


@dataclass(frozen=True)
class Images:
    """Single frames with what they show.

    frames: uint8 [N,128,128,3] RGB.
    targets: float32 [N,C], the share of each class; rows sum to 1.
    """

    frames: NDArray[np.uint8]
    targets: NDArray[np.float32]

    @classmethod
    def of_stills(cls, stills: StillClips) -> Images:
        frames = np.stack([plain_view(stills.image(index)[None], 128)[0] for index in range(len(stills))])
        labelled = np.eye(len(EXPRESSIONS), dtype=np.float32)[stills.labels]
        return cls(frames, labelled if stills.shares is None else stills.shares)

    @classmethod
    def of_procedural(cls, clips: ProceduralClips) -> Images:
        """Frames at rest show "neutral", at the apex their class; two classes with one apex face share it evenly."""
        neutral = EXPRESSIONS.index("neutral")
        apex = np.zeros((len(EXPRESSIONS), len(EXPRESSIONS)), np.float32)
        for row, label in enumerate(EXPRESSIONS):
            apex[row] = [APEX[other] == APEX[label] for other in EXPRESSIONS]
        apex /= apex.sum(axis=1, keepdims=True)
        shown = np.clip(clips.intensity * 2, 0, 1)[:, :, None]
        targets = shown * apex[clips.labels][:, None]
        targets[:, :, neutral] += 1 - shown[:, :, 0]
        frames = np.concatenate([clips.frames(index) for index in range(len(clips))])
        return cls(frames, targets.reshape(len(frames), -1))

    def accuracy(self, probabilities: NDArray[np.float32]) -> float:
        """Share of rows of probabilities [N,C] whose highest class is (one of) the most shown."""
        best = probabilities.argmax(axis=1)
        shown = self.targets[np.arange(len(best)), best]
        return float((shown >= self.targets.max(axis=1) - 1e-6).mean())


@dataclass(frozen=True)
class PretrainSettings:
    """How to pre-train; steps × batch images are seen.

    balance: 0 draws images as they come, 1 draws all classes equally often, between them in between.
    average: decay of the moving average of the weights, which is what remains.
    affine: how much crops are moved, turned and scaled; 1 is thorough, less is learned sooner.
    """

    steps: int = 6000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.2
    balance: float = 0.6
    average: float = 0.998
    affine: float = 1.0
    seed: int = 0


def pretrain(
    clip: Clip,
    sources: list[tuple[Images, float]],
    settings: PretrainSettings,
    progress: Callable[[int, float], object],
) -> None:
    """Train both towers of `clip` in place; it ends with the moving average of its weights.

    sources: image pools with the share of each batch they fill.
    progress: called after each step with its number (from 1) and the loss.
    """
    torch.manual_seed(settings.seed)
    model: Any = clip.model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clip.text.model.token_embedding.requires_grad_(False)  # a few dozen words cannot teach 49,408 embeddings
    average = moving_average(model, settings.average, use_buffers=True)
    groups = _parameter_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    warm_up = max(0.1, 2 / settings.steps)  # of one step alone torch makes a division by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=warm_up
    )
    tokens = clip.tokenize([sentence for label in EXPRESSIONS for sentence in DESCRIPTIONS[label]])
    batches = _batches(sources, clip.preprocessing.size, settings)
    for step, (frames, targets) in enumerate(batches, 1):
        pixels = normalise_pixels(frames, clip.preprocessing).to(memory_format=torch.channels_last)
        if settings.mixup:
            pixels, targets = _mix(pixels, targets, settings.mixup)
        with mixed_precision():
            image = model.encode_image(pixels).float()
        logits = _scale(model) * functional.normalize(image, dim=-1) @ class_features(clip, tokens).T
        loss = functional.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        progress(step, float(loss.detach()))
    model.load_state_dict(average.module.state_dict())
    model.eval()


def class_features(clip: Clip, tokens: Tensor) -> Tensor:
    """Float32 [C,D]: the mean text feature of each class's descriptions; tokens [C·S, 77], L2-normalised rows."""
    end = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
    embedded = clip.text.embed(tokens[:, : int(end.max()) + 1])
    features = functional.normalize(clip.text.encode(embedded, end), dim=-1)
    return functional.normalize(features.unflatten(0, (len(EXPRESSIONS), -1)).mean(dim=1), dim=-1)


@torch.inference_mode()
def classify(clip: Clip, images: Images, batch: int = 256) -> NDArray[np.float32]:
    """Probabilities float32 [N,C] of the images' test views: softmax of cosines times the learned scale."""
    tokens = clip.tokenize([sentence for label in EXPRESSIONS for sentence in DESCRIPTIONS[label]])
    classes = class_features(clip, tokens)
    rows = []
    for start in range(0, len(images.frames), batch):
        views = plain_view(images.frames[start : start + batch], clip.preprocessing.size)
        pixels = normalise_pixels(torch.from_numpy(views), clip.preprocessing)
        features = clip.model.encode_image(pixels)  # type: ignore[operator]
        logits = _scale(clip.model) * functional.normalize(features, dim=-1) @ classes.T
        rows.append(logits.softmax(dim=-1).numpy())
    return np.concatenate(rows)


def _scale(model: Any) -> Tensor:
    """CLIP's learned 1/τ, capped at 100 as in its training."""
    scale: Tensor = model.logit_scale.exp().clamp(max=100)
    return scale


def _parameter_groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _mix(pixels: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): blend every image and target with those of another."""
    weight = float(np.random.default_rng(int(torch.randint(2**31, ()))).beta(alpha, alpha))
    order = torch.randperm(len(pixels))
    return pixels.lerp(pixels[order], 1 - weight), targets.lerp(targets[order], 1 - weight)


def _batches(
    sources: list[tuple[Images, float]], size: int, settings: PretrainSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches, drawn one step ahead in a thread (OpenCV lets go of the interpreter while it works)."""
    shares = np.array([share for _, share in sources])
    counts = np.round(settings.batch * shares / shares.sum()).astype(int)
    probabilities = [sampling_probabilities(images.targets.argmax(axis=1), settings.balance) for images, _ in sources]

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([settings.seed, step])
        views, targets = [], []
        for (images, _), count, chances in zip(sources, counts, probabilities, strict=True):
            for index in rng.choice(len(chances), count, p=chances):
                one = images.frames[index : index + 1]
                views.append(augmented_view(one, size, rng, erase=0.25, affine=settings.affine)[0])
                targets.append(images.targets[index])
        return torch.from_numpy(np.stack(views)), torch.from_numpy(np.stack(targets))

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(draw, 0)
        for step in range(1, settings.steps + 1):
            ready, ahead = ahead, thread.submit(draw, step)
            yield ready.result()
