"""Unlabelled faces, one frame each: crops on disk, or procedural people."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError, ParameterError
from ...runtime.sources import VIDEO_SUFFIXES, folders_below, pictures_below
from ...runtime.sources.tables import image_places, read_rows
from ..data import WINDOW, ClipSet
from ..data.augmentation import plain_view
from ..data.choice import DRAWN, SIDE
from ..data.lists import TABLE, few_missing, holds_photographs, splits_in
from ..data.procedural import UNLABELLED, ProceduralClips
from ..data.videos import is_oblong, read_picture
from ..digests import content_digests, picture_sizes
from .options import DistillOptions

_MISSING = 0.01  # share of the pictures that may be missing or damaged


class Crops:
    """Aligned faces as a clip set of single frames [1,side,side,3]. They are unlabelled: all labels are 0.

    paths, groups: of each picture, its path and the person or clip it shows (None: a group of its own).
    Missing and damaged pictures are left out, and `warn` is called. Raises DferError if there are too many, and for a
    picture that is not square.
    """

    jitter = 0.0
    shares: NDArray[np.float32] | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        groups: Sequence[str | None],
        classes: tuple[str, ...],
        side: int = SIDE,
        warn: Callable[[str], object] = lambda _: None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        sizes = picture_sizes(paths, progress)
        bad = [path for path, size in zip(paths, sizes, strict=True) if not size]
        if bad:
            warn(few_missing("pictures of faces", bad, len(paths), _MISSING))
        kept = [index for index, size in enumerate(sizes) if size]
        for index in kept:
            width, height = sizes[index]
            if is_oblong(sizes[index]):
                raise DferError(
                    f"{paths[index]} is {width}×{height}, not a square crop of a face; cut the faces out first: "
                    "dfer-prepare PHOTOS FACES --photos"
                )
        self.paths = [paths[index] for index in kept]
        self.groups = [groups[index] for index in kept]
        self.names = [str(path) for path in self.paths]
        self.classes, self._side = classes, side
        self.labels: NDArray[np.int64] = np.zeros(len(kept), np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the pictures' content and order, and the side; independent of their paths."""
        content = content_digests([[path] for path in self.paths])
        return hashlib.sha256(f"crops {self._side} {content}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        return plain_view(read_picture(self.paths[index])[None], self._side)


class DrawnCrops:
    """The single frames of procedural people's clips; a person's frames form a group."""

    jitter = 0.0
    shares: NDArray[np.float32] | None = None

    def __init__(self, clips: ProceduralClips, classes: tuple[str, ...]) -> None:
        self._clips, self.classes = clips, classes
        self.names = [f"{name}/{frame}" for name in clips.names for frame in range(WINDOW)]
        self.groups = [group for group in clips.groups for _ in range(WINDOW)]
        self.labels: NDArray[np.int64] = np.zeros(len(self.names), np.int64)
        self.fingerprint = hashlib.sha256(f"frames {clips.fingerprint}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        clip, frame = divmod(index, WINDOW)
        return self._clips.frames(clip)[frame : frame + 1]


def open_crops(
    options: DistillOptions,
    classes: tuple[str, ...],
    side: int,
    warn: Callable[[str], object] = lambda _: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> ClipSet:
    """Open the faces that a distillation learns from; draw them if they are drawn.

    side: the least side of a picture, pixels. warn, progress: as in `Crops`. Raises DferError as that and `find_crops`.
    """
    if options.faces == DRAWN:
        people = range(UNLABELLED, UNLABELLED + options.identities)
        drawn = ProceduralClips(people, options.workers, lambda done: progress(done, options.identities))
        return DrawnCrops(drawn, classes)
    paths, groups = find_crops(Path(options.faces), warn)
    crops = Crops(paths, groups, classes, max(SIDE, side), warn, progress)
    progress(len(crops), len(crops))
    return crops


def find_crops(place: Path, warn: Callable[[str], object] = lambda _: None) -> tuple[list[Path], list[str | None]]:
    """Return pictures of faces and their groups, from a table or a folder.

    A table is a CSV with a column `image`, as dfer-prepare --photos writes it, or the folder that holds it and images/.
    Rows of a split other than "train" are left out; groups are those of the column `person`. In any other folder, all
    pictures are taken, at any depth, or only those in train/ if it is divided into train/, val/ or test/. Pictures with
    numbers as names are frames of a clip: `WINDOW` of them are taken, evenly spread, as one group. Videos beside the
    pictures are left out, and `warn` is called.
    Raises ParameterError if `place` does not exist or has no pictures, only videos or other splits for example.
    """
    if holds_photographs(place):
        place = place / TABLE
    if place.is_dir():
        splits = splits_in(place)
        place = place / splits.get("train", "train") if splits else place
        paths, groups = _walk(place)
        videos = sum(path.suffix.lower() in VIDEO_SUFFIXES for _, files in folders_below(place) for path in files)
    elif place.is_file():
        videos = int(place.suffix.lower() in VIDEO_SUFFIXES)
        paths, groups = ([], []) if videos else _listed(place)
    else:
        raise ParameterError("faces", f"{place} is not there; name a folder, a table (CSV), or {DRAWN}")
    advice = f"cut the faces out of the videos first: dfer-prepare {shlex.quote(str(place))} FACES"
    if not paths:
        hint = f"; {advice}" if videos else ""
        raise ParameterError("faces", f"{place} has no pictures of faces to learn from{hint}")
    if videos:
        warn(f"only pictures are learned from, and {place} has videos too ({videos}); {advice}")
    return paths, groups


def _listed(table: Path) -> tuple[list[Path], list[str | None]]:
    listed = [row for _, row in read_rows(table, ("image",), ("split", "person"))]
    rows = [row for row in listed if row.get("split", "train") in ("train", "")]
    if listed and not rows:
        splits = ", ".join(sorted({row["split"] for row in listed}))
        raise ParameterError("faces", f"{table}: no rows with split 'train'; its splits are {splits}")
    places = [image_places(table, row["image"]) for row in rows]
    paths = [next((path for path in both if path.is_file()), both[0]) for both in places]
    return paths, [row.get("person") or None for row in rows]


def _walk(root: Path) -> tuple[list[Path], list[str | None]]:
    paths: list[Path] = []
    groups: list[str | None] = []
    for clip, files in pictures_below(root):
        if clip is not None and len(files) > WINDOW:
            files = [files[index] for index in np.linspace(0, len(files) - 1, WINDOW).round().astype(int)]
        paths += files
        groups += [None if clip is None else str(clip.relative_to(root))] * len(files)
    return paths, groups
