"""Training and test batches: of stored features if the image encoder is frozen, else of pixels."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.errors import DferError
from ..checkpoints.protocol import Division
from ..landmarks.pictures import draw_pictures, move_points
from ..landmarks.reading import LandmarkedClips, Landmarks
from . import CLIP_SECONDS, Batch, ClipSet, labels_of, shares_of
from .augmentation import AUGMENTATIONS, plain_view
from .features import FeatureSet
from .subsets import Subset, split_validation

_Seen = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""A view of a clip, and the pictures of its landmarks."""
_ONSET = 0.6  # share of a clip by which its expression has begun
_AHEAD = 2  # batches that are prepared in advance


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn.

    batch: clips per step, over all processes. balance: classes are drawn in proportion to count^(1 − balance), so 0
        draws clips as they come, and 1 draws all classes equally often.
    shift: windows of features are shifted by up to this many frames, with edges repeated as in the runtime's warmup.
    span: minimum share of a clip's length that a window of features covers, with frames repeated as the runtime does
        for a shorter window; the window ends anywhere in the clip's last 40 %. 1: always the whole clip.
    history: share of the windows of features that begin with the end of another clip, for up to half their length, as
        when one expression follows another in a video.
    """

    batch: int = 64
    balance: float = 0.5
    shift: int = 3
    span: float = 1.0
    history: float = 0.0
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Source:
    """Clips and the share of each batch that they fill.

    training, validation: int64 indices of clips. held_back: a separate set to validate on instead, or None.
    landmarks: of the training clips, or None.
    """

    clips: ClipSet
    share: float
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_back: ClipSet | None = None
    landmarks: Landmarks | None = None

    @classmethod
    def divided(
        cls,
        clips: ClipSet,
        share: float,
        division: Division,
        held_back: ClipSet | None,
        decided: Mapping[str, bool] | None = None,
    ) -> Source:
        """Split into training and validation, `decided` as in `split_validation`; with `held_back`, train on all."""
        if held_back is not None:
            return cls(clips, share, np.arange(len(clips)), np.arange(0), held_back)
        parts = split_validation(clips.labels, division.share, division.seed, clips.groups, decided)
        return cls(clips, share, *parts)

    @property
    def names_digest(self) -> str:
        """sha256 of the names of the training clips, in order."""
        names = "\n".join(self.clips.names[index] for index in self.training)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()

    @property
    def division(self) -> str:
        """sha256 of which clips are trained on and which choose epochs, by their indices."""
        return hashlib.sha256(f"{self.training.tolist()} {self.validation.tolist()}".encode()).hexdigest()

    @property
    def trained(self) -> ClipSet:
        """The training clips."""
        if self.landmarks is None:
            return Subset(self.clips, self.training)
        return LandmarkedClips(self.clips, self.training, self.landmarks)  # type: ignore[arg-type]  # only `FilmClips` have landmarks

    @property
    def tested(self) -> ClipSet:
        """The clips that epochs are chosen on."""
        return self.held_back or Subset(self.clips, self.validation)

    @property
    def people(self) -> dict[str, bool]:
        """The groups, and whether each is among the clips that epochs are chosen on."""
        groups = [(self.clips.groups[index], False) for index in self.training]
        groups += [(group, True) for group in self.tested.groups]
        return {group: held_back for group, held_back in groups if group is not None}

    def apart_from(self, other: Source, kind: str, others: str, warn: Callable[[str], object]) -> Source:
        """Return this source without the training clips of people who are held back in `other`; `warn` of them.

        kind, others: what this source's clips and the other's are called. Raises DferError if no training clip is left.
        """
        people = other.people
        groups = (self.clips.groups[index] for index in self.training)
        rest = self.training[[group is None or not people.get(group, False) for group in groups]]
        if not len(rest):
            raise DferError(
                f"all {kind} to train on show people who are held back among the {others}; add {kind} of other people"
            )
        if lost := len(self.training) - len(rest):
            warn(f"{lost} {kind} are not trained on, since people in them are held back among the {others}")
        return replace(self, training=rest)


def clip_seconds(sources: Sequence[Source]) -> dict[str, float]:
    """Return the median length of the training clips as an entry for checkpoints; empty if no length is known."""
    told = [
        seconds
        for source in sources
        if (lengths := getattr(source.clips, "seconds", None)) is not None  # photographs have none
        for seconds in (lengths[index] for index in source.training)
        if seconds is not None
    ]
    return {CLIP_SECONDS: float(np.median(told))} if told else {}


def count_classes(sources: Sequence[Source]) -> tuple[list[str], list[str]]:
    """Return lines with the number of clips per class (then of photographs), and warnings for classes with one or none.

    Raises DferError if all training clips are of one class.
    """
    lines, warnings = [], []
    shown: set[str] = set()
    for source, kind in zip(sources, ("clips", "photographs"), strict=False):
        classes = source.clips.classes
        trained, held_back = (
            np.bincount(labels, minlength=len(classes)).tolist()
            for labels in (source.clips.labels[source.training], source.tested.labels)
        )
        listed = ", ".join(f"{name} {n}+{held}" for name, n, held in zip(classes, trained, held_back, strict=True))
        lines.append(f"{kind} to train on + to validate on: {listed}")
        for name, n in zip(classes, trained, strict=True):
            if n < 2:
                warnings.append(f"{'only one' if n else 'none'} of the {kind} to train on shows {name}")
        shown |= {name for name, n in zip(classes, trained, strict=True) if n}
    if len(shown) < 2:
        raise DferError(f"all clips to train on show {', '.join(shown)}; a model needs two classes at least")
    return lines, warnings


class Batches(Protocol):
    """frequency: how often each class is drawn. steps: batches per epoch. pixels: inputs are crops, not features."""

    pixels: ClassVar[bool]
    frequency: NDArray[np.float64]
    steps: int

    def random(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield this process's share of one epoch of random batches."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """Yield this process's share of all clips, each once, in its test view."""
        ...


class FeatureBatches:
    """Batches of stored features.

    sources: feature sets with the share of each batch they fill; an epoch draws as many clips as there are.
    """

    pixels: ClassVar[bool] = False

    def __init__(self, sources: Sequence[tuple[FeatureSet, float]], sampling: Sampling = Sampling()) -> None:
        self._sets = [source for source, _ in sources]
        self._sampling = sampling
        self._sampler = Sampler([source.labels for source in self._sets], [share for _, share in sources], sampling)
        self.frequency, self.steps = self._sampler.frequency, self._sampler.steps

    def random(self, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(self.steps):
            parts, labels = [], []
            names: list[str] = []
            drawn = []
            for number, index in self._sampler.indices(rng):
                features = self._sets[number].features
                view = rng.integers(0, features.shape[0], len(index))
                window = features.shape[2]
                shift = rng.integers(-self._sampling.shift, self._sampling.shift + 1, (len(index), 1))
                span = rng.uniform(self._sampling.span, 1.0, (len(index), 1))
                end = rng.uniform(np.maximum(span, _ONSET), 1.0) * (window - 1)
                frames = _places(end, span, window)
                frames = np.clip(frames + shift, 0, window - 1)
                rows = self._sets[number].rows
                clip = np.repeat(rows[index][:, None], window, axis=1)
                if self._sampling.history:
                    before = rng.integers(1, window // 2 + 1, (len(index), 1))
                    before *= rng.random((len(index), 1)) < self._sampling.history
                    earlier = np.arange(window) < before
                    other = rows[rng.integers(0, len(rows), (len(index), 1))]
                    clip = np.where(earlier, other, clip)
                    frames = np.where(earlier, _places(window - 1 + span * (window - before), span, window), frames)
                parts.append(features[view[:, None], clip, frames])
                labels.append(self._sets[number].labels[index])
                names.extend(self._sets[number].names[one] for one in index)
                drawn.append((labels[-1], self._sets[number].shares, index))
            inputs = torch.from_numpy(np.concatenate(parts)).float()
            yield Batch(inputs, torch.from_numpy(np.concatenate(labels)), names, _drawn_shares(drawn))

    def in_order(self) -> Iterator[Batch]:
        for source in self._sets:
            for rows in shards(len(source.labels), 4 * self._sampling.batch, self._sampling):
                features = torch.from_numpy(source.features[0, source.rows[rows]].astype(np.float32))
                yield Batch(features, torch.from_numpy(source.labels[rows]), source.names[rows])


def _places(end: NDArray[np.float64], span: NDArray[np.float64], window: int) -> NDArray[np.int64]:
    """Return ascending frame indices int64 [N,window], `span` [N,1] of a frame apart, that end at `end` [N,1]."""
    return np.asarray(np.rint(end - span * np.arange(window - 1, -1, -1)), np.int64)


class PixelBatches:
    """Batches of crops, read and augmented anew every epoch by `workers` threads (OpenCV releases the GIL).

    sources: clip sets with the share of each batch they fill. classes: the method's; labels are indices into them.
    """

    pixels: ClassVar[bool] = True

    def __init__(
        self,
        sources: Sequence[tuple[ClipSet, float]],
        classes: tuple[str, ...],
        size: int,
        augmentation: str,
        workers: int = 2,
        sampling: Sampling = Sampling(),
    ) -> None:
        self._sets = [clips for clips, _ in sources]
        self._labels = [labels_of(clips, classes) for clips in self._sets]
        self._soft = [shares_of(clips, classes) for clips in self._sets]
        self._size, self._augment, self._workers = size, AUGMENTATIONS[augmentation], workers
        self._sampling = sampling
        self._sampler = Sampler(self._labels, [share for _, share in sources], sampling)
        self.frequency, self.steps = self._sampler.frequency, self._sampler.steps

    def random(self, rng: np.random.Generator) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._workers) as pool:
            ahead: deque[tuple[list[Future[_Seen]], list[int], list[str], Tensor | None]] = deque()
            for step in range(self.steps + _AHEAD):
                if step < self.steps:
                    views, labels, names = [], [], []
                    drawn = list(self._sampler.indices(rng))
                    for number, indices in drawn:
                        for index, seed in zip(indices, rng.integers(2**62, size=len(indices)), strict=True):
                            views.append(pool.submit(self._random_view, number, int(index), int(seed)))
                            labels.append(int(self._labels[number][index]))
                            names.append(self._sets[number].names[index])
                    parts = [(self._labels[number][index], self._soft[number], index) for number, index in drawn]
                    ahead.append((views, labels, names, _drawn_shares(parts)))
                if step >= _AHEAD:
                    views, labels, names, shares = ahead.popleft()
                    frames, pictures = zip(*(view.result() for view in views), strict=True)
                    inputs = torch.from_numpy(np.stack(frames))
                    yield Batch(inputs, torch.tensor(labels), names, shares, pictures=_stacked(pictures))

    def _random_view(self, number: int, index: int, seed: int) -> _Seen:
        rng = np.random.default_rng(seed)
        clips = self._sets[number]
        if not isinstance(clips, LandmarkedClips):
            return self._augment(clips.frames(index, rng), self._size, rng, clips.jitter).frames, None
        frames, points = clips.traced(index, rng)
        view = self._augment(frames, self._size, rng, clips.jitter)
        if points is None:
            return view.frames, None
        return view.frames, draw_pictures(move_points(points, view.moves, frames.shape[1]), self._size)

    def _test_view(self, clips: ClipSet, index: int) -> NDArray[np.uint8]:
        return plain_view(clips.frames(index), self._size)

    def in_order(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._workers) as pool:
            for clips, labels in zip(self._sets, self._labels, strict=True):
                for rows in shards(len(clips), 8, self._sampling):
                    views = pool.map(partial(self._test_view, clips), range(rows.start, rows.stop))
                    inputs = torch.from_numpy(np.stack(list(views)))
                    yield Batch(inputs, torch.from_numpy(labels[rows]), clips.names[rows])


def _stacked(pictures: Sequence[NDArray[np.uint8] | None]) -> Tensor | None:
    """Stack pictures of clips into one tensor, black for clips without; None if no clip has any."""
    shape = next((one.shape for one in pictures if one is not None), None)
    if shape is None:
        return None
    return torch.from_numpy(np.stack([np.zeros(shape, np.uint8) if one is None else one for one in pictures]))


class Sampler:
    """Draws the clips of a batch: each source's share, at least one clip, with classes balanced by `sampling`.

    frequency: float64 [K], the probability that a drawn clip is of each class.
    """

    def __init__(self, labels: list[NDArray[np.int64]], shares: list[float], sampling: Sampling) -> None:
        everything = np.concatenate(labels)
        self.steps = max(1, len(everything) // sampling.batch)
        share = np.array(shares) / sum(shares)
        counts = np.round(max(1, sampling.batch // sampling.world) * share).astype(int)
        counts = np.maximum(counts, share > 0)
        self._sources = [
            (number, int(count), sampling_probabilities(part, sampling.balance))
            for number, (part, count) in enumerate(zip(labels, counts, strict=True))
            if count
        ]
        drawn = np.zeros(everything.max() + 1)
        for number, count, probabilities in self._sources:
            drawn += count * np.bincount(labels[number], probabilities, len(drawn))
        self.frequency = drawn / drawn.sum()

    def indices(self, rng: np.random.Generator) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield, for one batch, the number of each source and indices of clips in it."""
        for number, count, probabilities in self._sources:
            yield number, rng.choice(len(probabilities), count, p=probabilities)


def _drawn_shares(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32] | None, NDArray[np.int64]]],
) -> Tensor | None:
    """Return soft targets float32 [B,C] of a batch; None if no source has any.

    parts: per source the labels of the drawn clips, its shares [N,C] or None, and indices of the drawn clips. Labels of
    a source without shares become one-hot.
    """
    width = next((shares.shape[1] for _, shares, _ in parts if shares is not None), None)
    if width is None:
        return None
    hard = np.eye(width, dtype=np.float32)
    rows = [hard[labels] if shares is None else shares[index] for labels, shares, index in parts]
    return torch.from_numpy(np.concatenate(rows))


def sampling_probabilities(labels: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Return the probability [N] of drawing each row, so that classes come in proportion to count^(1 − balance)."""
    weights = np.bincount(labels)[labels].astype(np.float64) ** -balance
    return np.asarray(weights / weights.sum())


def shards(count: int, batch: int, sampling: Sampling) -> Iterator[slice]:
    """Yield this process's slices, of at most `batch` rows each, of `count` rows, in order."""
    for start in range(sampling.rank * batch, count, sampling.world * batch):
        yield slice(start, min(start + batch, count))
