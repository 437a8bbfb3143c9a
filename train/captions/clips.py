"""Captions of the clips to train on, and clips to learn from by captions alone: their labels are not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ParameterError
from ..data import ClipSet
from ..data.choice import DRAWN, SIDE, DataChoice
from ..data.lists import Entry, splits_in
from ..data.procedural import ProceduralClips
from ..data.subsets import Subset
from ..data.videos import VideoClips
from ..options import TrainOptions
from ..preparation.films import find_films
from . import WEIGHT
from .reading import TRAINING, Captions, clean_captions, read_captions


class Unlabelled:
    """The clips of another set as if nobody had labelled them: all have the first of `classes`, which nobody reads."""

    shares: NDArray[np.float32] | None = None

    def __init__(self, clips: ClipSet, classes: tuple[str, ...]) -> None:
        self._clips, self.classes, self.jitter = clips, classes, clips.jitter
        self.names, self.groups = clips.names, clips.groups
        self.labels: NDArray[np.int64] = np.zeros(len(clips), np.int64)

    @property
    def fingerprint(self) -> str:
        return self._clips.fingerprint

    def __len__(self) -> int:
        return len(self._clips)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        return self._clips.frames(index, rng)


def check_unlabelled(options: TrainOptions, trains: bool) -> None:
    """Raise ParameterError for options that mean nothing to a method without labels.

    trains: whether there are captions to train on; without, the method has all that it needs from CLIP.
    """
    for name in ("stills", "validation_split", "select_on_test", "class_weights"):
        if getattr(options, name):
            raise ParameterError(name, f"needs labels, and {options.method} learns from captions alone; leave it out")
    if options.caption_weight != WEIGHT:
        raise ParameterError("caption_weight", f"{options.method} has no other loss to weigh captions against")
    if trains:
        return
    for name in ("epochs", "learning_rate", "depth", "resume"):
        if getattr(options, name):
            raise ParameterError(name, f"{options.method} without captions trains nothing; add captions")
    if options.data.data != "procedural" or options.data.root is not None:
        raise ParameterError("data", f"{options.method} without captions reads no clips; add captions")


def open_unlabelled(
    choice: DataChoice,
    out: Path,
    progress: Callable[[int, int], object] = lambda done, total: None,
    warn: Callable[[str], object] = lambda _: None,
    size: int = SIDE,
) -> tuple[ClipSet, dict[str, str]]:
    """The training clips of a data set, and the split of every clip that it names.

    A folder's clips may lie however deep, without classes; all are for training where there are no train/, val/ and
    test/. A table needs no labels: its columns are clip and split. Benchmarks come with theirs.
    out: a place that holds none of the clips. progress, warn, size: as of `DataChoice.open`.
    Raises DferError for data that are not where `choice` says.
    """
    if choice.data not in ("folder", "csv") or choice.root is None:
        clips = choice.open(TRAINING, False, progress, warn, size)
        return clips, choice.listed()
    root = choice.root
    if choice.data == "csv":
        splits, folder = choice.listed(), root if root.is_dir() else root.parent
    else:
        if choice.lists is not None or choice.fold != 1:
            raise ParameterError("data", "folders have neither lists nor folds; use csv for those")
        divided = splits_in(root)
        names = [film.name for film in find_films(root, out)]
        splits, folder = {name: name.split("/")[0] if divided else TRAINING for name in names}, root
    entries = [Entry(name, TRAINING) for name, split in splits.items() if split == TRAINING]
    return VideoClips(entries, folder, (TRAINING,), max(SIDE, size), choice.max_missing, warn, progress), splits


def captions_of(clips: ClipSet, source: str | Path, classes: tuple[str, ...], splits: Mapping[str, str]) -> Captions:
    """The captions of training clips, from a file, or as `DRAWN` of procedural people.

    classes: names that no clause may have. splits: of all clips that are listed.
    Raises DferError as `read_captions` does, ParameterError where drawn ones are asked for and nothing is drawn.
    """
    if str(source) != DRAWN:
        known = dict.fromkeys(clips.names, TRAINING) | dict(splits)  # one in both is of the other split
        return read_captions(Path(source), known, classes)
    if not isinstance(clips, ProceduralClips):
        raise ParameterError("captions", f"only procedural people have {DRAWN} ones; name a file")
    return clean_captions(((name, [text]) for name, text in clips.captions.items()), classes)


def captioned(clips: ClipSet, captions: Captions, classes: tuple[str, ...]) -> Subset:
    """Those of the clips that have captions, without their labels; `classes` are what a method has."""
    told_of = [index for index, name in enumerate(clips.names) if name in captions.texts]
    return Subset(Unlabelled(clips, classes), np.array(told_of, np.int64))
