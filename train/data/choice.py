"""Which clips a command works on: the options that say it, and the clip set they mean."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...runtime.errors import DferError

if TYPE_CHECKING:
    from . import ClipSet

C = TypeVar("C", bound=Callable[..., Any])

DATA = ("procedural", "dfew", "ferv39k", "mafw", "folder", "csv")


@dataclass(frozen=True)
class DataChoice:
    """What the options of `data_options` say."""

    data: str
    root: Path | None
    fold: int
    lists: Path | None
    max_missing: float
    identities: int
    workers: int

    @property
    def name(self) -> str:
        """For titles and logs."""
        if self.data == "procedural":
            return f"{self.identities} procedural people"
        return f"{self.data}, fold {self.fold}" if self.data in ("dfew", "mafw", "csv") else self.data

    def open(
        self,
        split: str,
        held_out: bool = False,
        progress: Callable[[int], object] = lambda _: None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> ClipSet:
        """The clips of a split. Procedural people are drawn: training ones, or `held_out` ones, `progress` hearing of
        each. `warn` is told of clips that are missing. Raises DferError for data that are not where the options say."""
        if self.data == "procedural":
            from .procedural import HELD_OUT, ProceduralClips

            first = HELD_OUT if held_out else 0
            return ProceduralClips(range(first, first + self.identities), self.workers, progress)
        if self.root is None:
            raise DferError(f"--data {self.data} needs --root, the folder of its clips")
        from .benchmarks import load_clips

        clips = load_clips(self.data, self.root, split, self.fold, self.lists, self.max_missing)
        if clips.missing:
            named = ", ".join(str(path) for path in clips.missing[:10])
            warn(f"{len(clips.missing)} listed clips are missing and left out: {named}")
        return clips


def data_options(identities: int) -> Callable[[C], C]:
    """The options that make a `DataChoice`; the command gets it as `choice`. identities: how many by default."""
    options = [
        click.option("--data", type=click.Choice(DATA), default="procedural", show_default=True, help="Which clips."),
        click.option("--root", type=click.Path(path_type=Path), help="Folder of the clips."),
        click.option("--fold", type=click.IntRange(min=1), default=1, show_default=True, help="Of DFEW, MAFW, a CSV."),
        click.option("--lists", type=click.Path(path_type=Path), help="Annotation lists, when not in --root."),
        click.option(
            "--max-missing",
            type=click.FloatRange(0, 1),
            default=0.01,
            show_default=True,
            help="Share of the listed clips that may be missing.",
        ),
        click.option(
            "--identities",
            type=click.IntRange(min=1),
            default=identities,
            show_default=True,
            help="Procedural people; 7 clips each.",
        ),
        click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Reading, drawing."),
    ]

    def decorate(command: C) -> C:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            names = ("data", "root", "fold", "lists", "max_missing", "identities", "workers")
            return command(*args, choice=DataChoice(**{name: kwargs.pop(name) for name in names}), **kwargs)

        decorated: Any = functools.update_wrapper(wrapper, command)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate
