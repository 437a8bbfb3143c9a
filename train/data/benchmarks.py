"""Load DFEW, FERV39k and MAFW from their published folder layouts, and clips of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from .lists import (
    TABLE,
    Entry,
    read_dfer_clip,
    read_dfew,
    read_folder,
    read_named,
    read_table,
    splits_of_folder,
    splits_of_table,
)
from .videos import VideoClips, locate


@dataclass(frozen=True)
class Benchmark:
    """A published data set.

    released: its own annotation files, relative to its folder; `read` reads them. listed: DFER-CLIP's list.
    frames: folders, relative to its own, where the frames of faces may be.
    """

    classes: tuple[str, ...]
    folds: int
    released: tuple[str, ...]
    read: Callable[[Path], list[Entry]]
    listed: str
    frames: tuple[str, ...]


BENCHMARKS = {
    "dfew": Benchmark(
        EXPRESSIONS,
        5,
        tuple(f"EmoLabel_DataSplit/{{split}}(single{mark}labeled)/set_{{fold}}.csv" for mark in "-_"),
        read_dfew,
        "DFEW_set_{fold}_{split}.txt",
        ("Clip/clip_224x224", "Clip/clip_224x224_16f", "DFEW_Frame_Face"),
    ),
    "ferv39k": Benchmark(
        EXPRESSIONS,
        1,
        ("4_setups/All_scenes/{split}_All.csv",),
        partial(read_named, classes=EXPRESSIONS),
        "FERV39K_{split}.txt",
        ("2_ClipsforFaceCrop",),
    ),
    "mafw": Benchmark(
        MAFW_EXPRESSIONS,
        5,
        ("Train & Test Set/single/no_caption/set_{fold}/{split}.txt",),
        partial(read_named, classes=MAFW_EXPRESSIONS),
        "MAFW_set_{fold}_{split}.txt",
        ("data/faces",),
    ),
}
DATA = (*BENCHMARKS, "folder", "csv")
"""Names that `load_clips` accepts."""


def load_clips(
    data: str,
    root: Path,
    split: str,
    fold: int = 1,
    lists: Path | None = None,
    max_missing: float = 0.01,
    size: int = 128,
    warn: Callable[[str], object] = lambda _: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> VideoClips:
    """Load the clips of one split of a data set, frames uint8 [16,size,size,3].

    data: one of `DATA`. root: the data set's folder, or any folder that holds its prepared clips.
    split: "train" or "test" for the benchmarks, whose training clips `split_validation` divides; also "val" for
    `folder`; any name for `csv`. fold: 1 to 5 for DFEW and MAFW; as in the table for `csv`.
    lists: a list of DFER-CLIP's, or the folder of such lists or of the released annotations, if not `root`; for `csv`
    the table, by default `root` itself or its labels.csv. size, max_missing, warn, progress: as in `VideoClips`.
    Raises DferError for files that are not where they should be, for bad lines and for missing clips.
    """
    if data not in DATA:
        raise DferError(f"unknown data {data!r}; choose from {', '.join(DATA)}")
    if not root.exists():
        raise DferError(f"{root}: no such file or folder")
    if data == "csv":
        entries, classes = read_table(table_of(root, lists), split, fold, warn)
        folder = root if root.is_dir() else root.parent
        return VideoClips(entries, folder, classes, size, max_missing, warn, progress)
    if not root.is_dir():
        raise DferError(f"{root}: not a folder")
    if data == "folder":
        if lists is not None or fold != 1:
            raise DferError("data in folders have neither lists nor folds; use csv for those")
        entries, classes = read_folder(root, split, warn)
        return VideoClips(entries, root, classes, size, max_missing, warn, progress)
    benchmark = BENCHMARKS[data]
    if split not in ("train", "test"):
        raise DferError(f"{data} has no split {split!r}; choose train or test")
    if not 1 <= fold <= benchmark.folds:
        raise DferError(f"{data} has no fold {fold}; its folds are 1 to {benchmark.folds}")
    entries = _read_list(benchmark, lists or root, split, fold)
    entries, folder = _find_folder(entries, root, benchmark.frames)
    return VideoClips(entries, folder, benchmark.classes, size, max_missing, warn, progress)


def listed_splits(data: str, root: Path, fold: int = 1, lists: Path | None = None) -> dict[str, str]:
    """Return the split of every clip in the data's lists or folders, keyed by its name in a clip set.

    For a clip in several splits, one other than "train" is returned. Arguments and errors are those of `load_clips`;
    if `lists` is a single list, all of its clips are "train".
    """
    if data == "csv":
        return splits_of_table(table_of(root, lists), fold)
    if data == "folder":
        return splits_of_folder(root)
    place = lists or root
    splits = ("train",) if place.is_file() else ("train", "test")
    listed = {split: _relative(_read_list(BENCHMARKS[data], place, split, fold))[0] for split in splits}
    return {entry.clip: split for split, entries in listed.items() for entry in entries}


def part_of_list(data: str, path: Path) -> str:
    """Return the split of a list that is named like one of DFER-CLIP's; for others, the folder's and file's names."""
    benchmark = BENCHMARKS[data]
    folds, splits = range(1, benchmark.folds + 1), ("train", "test")
    named = {benchmark.listed.format(split=split, fold=fold): split for split in splits for fold in folds}
    return named.get(path.name, f"{path.resolve().parent.name}/{path.name}")


def table_of(root: Path, lists: Path | None) -> Path:
    """Return the table of data `csv`; arguments are those of `load_clips`."""
    return lists or (root / TABLE if root.is_dir() else root)


def _read_list(benchmark: Benchmark, place: Path, split: str, fold: int) -> list[Entry]:
    """Read the list `place`, or the list found in the folder `place`."""
    if place.is_file():
        return read_dfer_clip(place, benchmark.classes)
    released = [place / name.format(split=split, fold=fold) for name in benchmark.released]
    listed = place / benchmark.listed.format(split=split, fold=fold)
    for path in released:
        if path.is_file():
            return benchmark.read(path)
    if listed.is_file():
        return read_dfer_clip(listed, benchmark.classes)
    sought = " or ".join(path.relative_to(place).as_posix() for path in [*released, listed])
    raise DferError(f"no annotations in {place}: looked for {sought}")


def _relative(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries relative to their common parent folder, and that folder's parts.

    In lists from another machine, every path starts with that machine's folders.
    """
    if not entries:
        raise DferError("the list names no clips")
    clips = [PurePosixPath(entry.clip) for entry in entries]
    above = [clip.parts[:-1] for clip in clips]
    shared = [name for name, _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(above), max(above), strict=False))]
    relative = [
        Entry(PurePosixPath(*clip.parts[len(shared) :]).as_posix(), entry.label, entry.count, entry.group)
        for clip, entry in zip(clips, entries, strict=True)
    ]
    return relative, shared


def _find_folder(entries: list[Entry], root: Path, frames: Sequence[str]) -> tuple[list[Entry], Path]:
    """Return the entries relative to their common parent folder, and where that folder is under `root`.

    Each tail of the folder's path is tried under `root` and under the data set's usual folders, `frames`. The
    one with the most clips is taken, the longest tail first.
    """
    relative, shared = _relative(entries)
    tails = [PurePosixPath(*shared[start:]) for start in range(len(shared) + 1)]
    bases = [root, *(root / name for name in frames)]
    candidates = [base / tail for tail in tails if not tail.is_absolute() for base in bases]
    sample = relative[:: max(1, len(relative) // 100)]
    found = [sum(locate(folder, entry.clip).exists() for entry in sample) for folder in candidates]
    if not any(found):
        raise DferError(
            f"none of the listed clips, such as {entries[0].clip}, is under {root} or its folders {', '.join(frames)}"
        )
    return relative, candidates[found.index(max(found))]
