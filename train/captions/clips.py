"""Captions of training clips, and clips that are trained on through captions alone, without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ParameterError, check_unset
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

_OF_TRAINING = (
    *("epochs", "learning_rate", "depth", "resume", "batch", "balance", "views", "augmentation", "features"),
    *("span", "history", "ema", "validation", "tensorboard"),
)


class Unlabelled:
    """The clips of another set without their labels: every label is 0, a placeholder that is never used."""

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
    """Raise ParameterError for options that do not apply to a method that uses no labels.

    trains: whether there are captions to train on. Without captions, nothing is trained: CLIP is used as it is.
    """
    for name in ("stills", "validation_split", "select_on_test", "class_weights"):
        if getattr(options, name):
            raise ParameterError(name, f"needs labels, and {options.method} learns from captions alone; leave it out")
    if options.caption_weight != WEIGHT:
        raise ParameterError("caption_weight", f"{options.method} has no other loss to weigh captions against")
    if trains:
        return
    check_unset(options, f"{options.method} without captions trains nothing; add captions", *_OF_TRAINING)
    check_unset(options.data, f"{options.method} without captions draws nobody; add captions", "identities")
    if options.data.data != "procedural":
        raise ParameterError("data", f"{options.method} without captions reads no clips; add captions")


def open_unlabelled(
    choice: DataChoice,
    out: Path,
    progress: Callable[[int, int], object] = lambda done, total: None,
    warn: Callable[[str], object] = lambda _: None,
    size: int = SIDE,
) -> tuple[ClipSet, dict[str, str]]:
    """Return the training clips of a data set, and the split of every clip that it lists.

    In a folder, clips may be nested to any depth, without class folders; all are training clips if there is no train/,
    val/ or test/. A table needs only the columns clip and split. Benchmarks bring their own lists.
    out: a path to leave out of the search for clips. progress, warn, size: as in `DataChoice.open`.
    Raises DferError if the data are not where `choice` says.
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
        divided = {folder: split for split, folder in splits_in(root).items()}
        above = {film.name: film.name.split("/")[0] for film in find_films(root, out)}
        splits, folder = {name: divided.get(top, top) if divided else TRAINING for name, top in above.items()}, root
    entries = [Entry(name, TRAINING) for name, split in splits.items() if split == TRAINING]
    return VideoClips(entries, folder, (TRAINING,), max(SIDE, size), choice.max_missing, warn, progress), splits


def captions_of(clips: ClipSet, source: str | Path, classes: tuple[str, ...], splits: Mapping[str, str]) -> Captions:
    """Return the captions of training clips: from the file `source`, or, for `DRAWN`, those of procedural people.

    classes: names that no clause may contain. splits: the split of every listed clip.
    Raises DferError as `read_captions` does, and ParameterError for `DRAWN` if the clips are not procedural.
    """
    if str(source) != DRAWN:
        known = dict.fromkeys(clips.names, TRAINING) | dict(splits)  # for a clip in both, `splits` wins
        return read_captions(Path(source), known, classes)
    if not isinstance(clips, ProceduralClips):
        raise ParameterError("captions", f"only procedural people have {DRAWN} ones; name a file")
    return clean_captions(((name, [text]) for name, text in clips.captions.items()), classes)


def captioned(clips: ClipSet, captions: Captions, classes: tuple[str, ...]) -> Subset:
    """Return the clips that have captions, without their labels. classes: those of the method."""
    told_of = [index for index, name in enumerate(clips.names) if name in captions.texts]
    return Subset(Unlabelled(clips, classes), np.array(told_of, np.int64))
