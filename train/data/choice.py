"""Which clips a command works on, by name, and the clip set that this means."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.errors import ParameterError

if TYPE_CHECKING:
    from . import ClipSet

DATA = ("procedural", "dfew", "ferv39k", "mafw", "folder", "csv")
SIDE = 128
"""Pixels that frames on disk are given out with at least: what dfer-prepare writes, so that views can be cut from them.
"""

DRAWN = "drawn"
"""In place of a file of captions, or of a folder of faces: those of procedural people."""


@dataclass(frozen=True)
class DataChoice:
    """One of `DATA`, where it lies and which part of it.

    root: folder of the clips. fold: of DFEW, MAFW or a CSV. lists: annotation lists, where not in `root`.
    max_missing: share of the listed clips that may be missing, and of their pictures that may be damaged.
    identities: procedural people to draw, 7 clips each. workers: processes that draw them; threads that read pixels.
    """

    data: str = "procedural"
    root: Path | None = None
    fold: int = 1
    lists: Path | None = None
    max_missing: float = 0.01
    identities: int = 150
    workers: int = 2

    @property
    def name(self) -> str:
        """For titles and logs."""
        if self.data == "procedural":
            return f"{self.identities} procedural people"
        return f"{self.data}, fold {self.fold}" if self.has_folds else self.data

    @property
    def asked(self) -> str:
        """The options that ask a command for these clips, each after a space; none for procedural people."""
        if self.root is None:
            return ""
        fold = None if self.fold == 1 else self.fold
        missing = None if self.max_missing == DataChoice.max_missing else self.max_missing
        given = {"data": self.data, "root": self.root, "fold": fold, "lists": self.lists, "max-missing": missing}
        return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)

    @property
    def has_folds(self) -> bool:
        """Whether these clips may be divided in several ways."""
        return self.data in ("dfew", "mafw", "csv")

    @property
    def set_name(self) -> str:
        """What protocols call these clips: a benchmark by its name, others by that of their folder."""
        if self.root is None or self.data not in ("folder", "csv"):
            return self.data
        return (self.root.parent if self.root.is_file() else self.root).resolve().name

    @property
    def undivided(self) -> bool:
        """Whether these are folders of clips that are not divided into splits, so that every split is all of them."""
        if self.data != "folder" or self.root is None or not self.root.is_dir():
            return False
        from .lists import splits_in  # which loads the readers of videos

        return not splits_in(self.root)

    @property
    def one_list(self) -> bool:
        """Whether a single list stands in place of a benchmark's own, so that every split is all that it names."""
        return self.data not in ("folder", "csv") and self.lists is not None and self.lists.is_file()

    def part(self, split: str, held_out: bool = False) -> str | None:
        """The protocol's name for a split's clips: the split; a single list's name (`part_of_list`); None for an
        undivided folder."""
        if self.data == "procedural":
            return "test" if held_out else "train"
        if self.one_list:
            from .benchmarks import part_of_list

            assert self.lists is not None
            return part_of_list(self.data, self.lists)
        return None if self.undivided else split

    def open(
        self,
        split: str,
        held_out: bool = False,
        progress: Callable[[int, int], object] = lambda done, total: None,
        warn: Callable[[str], object] = lambda _: None,
        size: int = SIDE,
    ) -> ClipSet:
        """The clips of a split; of procedural people, training ones or `held_out` ones.

        size: side of the crops that the model is given; frames on disk come as large, and not below `SIDE`.
        `progress` hears how many people are drawn, or folders of pictures checked, and of how many. `warn` is told of
        clips that are missing and of damaged pictures. Raises DferError for data that are not where this says.
        """
        if self.data == "procedural":
            from .procedural import HELD_OUT, ProceduralClips

            first = HELD_OUT if held_out else 0
            people = range(first, first + self.identities)
            return ProceduralClips(people, self.workers, lambda done: progress(done, self.identities))
        if self.root is None:
            raise ParameterError("root", f"data {self.data} needs the folder that holds its clips")
        from .benchmarks import load_clips

        size = max(SIDE, size)
        return load_clips(self.data, self.root, split, self.fold, self.lists, self.max_missing, size, warn, progress)

    def listed(self) -> dict[str, str]:
        """The split of every clip that the lists or folders name, whether its file is there or not, by name.

        A clip in several is not of "train". Raises DferError as `open` does; procedural people have no list.
        """
        if self.root is None:
            return {}
        from .benchmarks import listed_splits

        return listed_splits(self.data, self.root, self.fold, self.lists)
