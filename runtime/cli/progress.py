"""Progress bars in the terminal: one per source, or one for many, never wider than the screen; and lines in logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from time import monotonic
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from ..predictions import Step
from ..sources import SourceReader

_EVERY = 60.0  # seconds between two lines in a log


class LongProgress(Progress):
    """Progress bars of work that takes long. In logs and dumb terminals, which show no bars, it prints a line a minute.

    A task's field "note", if any, ends its line.
    """

    def __init__(self, *columns: str | ProgressColumn, console: Console) -> None:
        super().__init__(*columns, console=console)
        self._drawn = console.is_terminal and not console.is_dumb_terminal
        self._told = monotonic()

    def update(self, task_id: TaskID, *changes: Any, **named: Any) -> None:
        super().update(task_id, *changes, **named)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if self._drawn or monotonic() - self._told < _EVERY:
            return
        self._told = monotonic()
        task = self._tasks[task_id]
        told = [f"{task.percentage:.0f} %" if task.total else f"{task.completed:.0f} done"]
        if task.total and (left := task.time_remaining):
            minutes = math.ceil(left / 60)
            told.append(f"about {minutes} minute{'s' * (minutes != 1)} left")
        told += filter(None, [task.fields.get("note", "")])
        self.console.print(f"{task.description}: {escape(', '.join(told))}", soft_wrap=True)


class OverallBar:
    """One bar for many sources, of which few are read at once. Use as a context manager."""

    def __init__(self, console: Console, readers: Sequence[SourceReader]) -> None:
        self.progress = Progress(
            TextColumn("{task.fields[ended]} of {task.total} sources", markup=False),
            BarColumn(bar_width=20),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            expand=True,
        )
        self._readers = {reader.name: reader for reader in readers}
        self._shares: dict[str, float] = {}  # read share of each source that was started
        self._task = self.progress.add_task("", total=len(readers), ended=0)

    def write(self, step: Step) -> None:
        reader = self._readers[step.source]
        if step.frame.index % 8:
            return
        self._shares[reader.name] = min(1.0, reader.taken / reader.count) if reader.count else 0.0
        done = {name: reader for name, reader in self._readers.items() if reader.done}
        completed = len(done) + sum(share for name, share in self._shares.items() if name not in done)
        name = PurePath(reader.name).name or reader.name
        self.progress.update(self._task, completed=completed, ended=len(done), description=name)

    def close(self) -> None:
        """Leave the bar as it is, counting all sources that ended."""
        done = sum(reader.done for reader in self._readers.values())
        self.progress.update(self._task, completed=done, ended=done, description="")
        self.progress.stop()

    discard = close

    def __enter__(self) -> OverallBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


class ProgressBars:
    """A bar per source with its current predictions. Use as a context manager."""

    def __init__(self, console: Console, readers: Sequence[SourceReader]) -> None:
        self.progress = Progress(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(max_width=22, no_wrap=True, overflow="ellipsis")
            ),
            BarColumn(bar_width=10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[now]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            expand=True,
        )
        self._readers = {reader.name: reader for reader in readers}
        self._tasks = {
            name: self.progress.add_task(PurePath(name).name or name, total=reader.count, now="")
            for name, reader in self._readers.items()
        }

    def write(self, step: Step) -> None:
        if step.predictions:
            state = self._readers[step.source].state
            now = "  ".join(f"{p.track_id}: {p.label} {p.confidence:.0%}" for p in step.predictions)
            self.progress.update(self._tasks[step.source], now=now if state == "running" else f"[{state}]  {now}")
        self.progress.update(self._tasks[step.source], advance=1, total=self._readers[step.source].count)

    def close(self) -> None:
        """Leave the bars as they are."""
        self.progress.stop()

    discard = close

    def __enter__(self) -> ProgressBars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
