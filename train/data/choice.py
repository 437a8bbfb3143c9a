"""The choice of clips that a command works on, and the clip set it opens."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.errors import ParameterError, check_unset

if TYPE_CHECKING:
    from . import ClipSet

DATA = ("procedural", "dfew", "ferv39k", "mafw", "folder", "csv")
SIDE = 128
"""Minimum side in pixels of frames loaded from disk: the size dfer-prepare writes, so that views can be cropped."""

DRAWN = "drawn"
"""Stands for procedural people where a file of captions or a folder of faces is expected."""


@dataclass(frozen=True)
class DataChoice:
    """One of `DATA`, its location and fold.

    root: folder of the clips. fold: of DFEW, MAFW or a CSV. lists: annotation lists, if not in `root`.
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
        """Command-line options that select these clips, each after a space; "" for procedural people."""
        if self.root is None:
            return ""
        fold = None if self.fold == 1 else self.fold
        missing = None if self.max_missing == DataChoice.max_missing else self.max_missing
        given = {"data": self.data, "root": self.root, "fold": fold, "lists": self.lists, "max-missing": missing}
        return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)

    @property
    def has_folds(self) -> bool:
        """Whether this kind of data can have folds."""
        return self.data in ("dfew", "mafw", "csv")

    def folds(self) -> list[int]:
        """Return the numbers of all folds: of a CSV those in its table, else 1 to 5.

        Raises DferError if the table has none, or cannot be found.
        """
        self.check()
        if self.data != "csv" or self.root is None:
            return [1, 2, 3, 4, 5]
        from .benchmarks import table_of
        from .lists import folds_of_table

        return folds_of_table(table_of(self.root, self.lists))

    @property
    def set_name(self) -> str:
        """The name of these clips in protocols: a benchmark's name, or the name of their folder."""
        if self.root is None or self.data not in ("folder", "csv"):
            return self.data
        return (self.root.parent if self.root.is_file() else self.root).resolve().name

    @property
    def undivided(self) -> bool:
        """Whether this is a folder without splits, so that every split is all of its clips."""
        if self.data != "folder" or self.root is None or not self.root.is_dir():
            return False
        from .lists import splits_in  # imported late: it loads the video readers

        return not splits_in(self.root)

    @property
    def one_list(self) -> bool:
        """Whether a single list replaces a benchmark's own lists, so that every split is all of its clips."""
        return self.data not in ("folder", "csv") and self.lists is not None and self.lists.is_file()

    def split_name(self, split: str) -> str:
        """Return a split's name in protocols: in folders, train, val or test for any name of theirs (Train)."""
        from .lists import SPLITS  # imported late: it loads the video readers

        return SPLITS.get(split.lower(), split) if self.data == "folder" else split

    def part(self, split: str, held_out: bool = False) -> str | None:
        """Return the name of a split's clips in protocols: the split; `part_of_list` of a single list; None for an
        undivided folder."""
        if self.data == "procedural":
            return "test" if held_out else "train"
        if self.one_list:
            from .benchmarks import part_of_list

            assert self.lists is not None
            return part_of_list(self.data, self.lists)
        return None if self.undivided else self.split_name(split)

    def check(self) -> None:
        """Raise ParameterError for a missing `root`, and for options that drawn people, or no clips, do not have."""
        if self.data not in ("procedural", "none"):
            if self.root is None:
                raise ParameterError("root", f"data {self.data} needs the folder that holds its clips")
            return
        problem = f"has no effect with data {self.data}; name a data set, such as data folder"
        check_unset(self, problem, "root", "lists", "fold", "max_missing")

    def open(
        self,
        split: str,
        held_out: bool = False,
        progress: Callable[[int, int], object] = lambda done, total: None,
        warn: Callable[[str], object] = lambda _: None,
        size: int = SIDE,
    ) -> ClipSet:
        """Open the clips of a split; for procedural people, the training or the `held_out` ones.

        size: side of the model's crops; frames on disk are loaded at this size, but not below `SIDE`.
        progress: called with the number of people drawn, or folders of pictures checked, and the total. warn: called
        with messages about missing clips and damaged pictures. Raises DferError if the data cannot be found.
        """
        self.check()
        if self.data == "procedural":
            from .procedural import HELD_OUT, ProceduralClips

            first = HELD_OUT if held_out else 0
            people = range(first, first + self.identities)
            return ProceduralClips(people, self.workers, lambda done: progress(done, self.identities))
        assert self.root is not None
        from .benchmarks import load_clips

        size = max(SIDE, size)
        return load_clips(self.data, self.root, split, self.fold, self.lists, self.max_missing, size, warn, progress)

    def listed(self) -> dict[str, str]:
        """Return the split of every clip in the lists or folders, by name, whether or not its file exists.

        For a clip in several, the split is not "train". Empty for procedural people. Raises DferError as `open` does.
        """
        self.check()
        if self.root is None:
            return {}
        from .benchmarks import listed_splits

        return listed_splits(self.data, self.root, self.fold, self.lists)
