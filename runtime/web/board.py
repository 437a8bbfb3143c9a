"""The latest state for viewers: the run writes it, the server reads it, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..outputs.tables import csv_row
from ..predictions import Prediction, Step
from ..timing import StageTimes

SPAN = 30.0
"""Seconds of media time that the charts show, also to viewers who join later."""

MOST_ROWS = 50_000
"""Newest rows available for download; for one face 1.7 hours at 8 a second, about 10 MB."""

_MOST_POINTS = 6000  # per source, regardless of the number of faces and samples in SPAN
_MOST_ENDED = 16  # ended sources whose image is kept, the last to begin


class SourceState(Protocol):
    """The state of a source: a `SourceReader`, or anything with these attributes. Read again for every message."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def dropped(self) -> int: ...
    @property
    def error(self) -> str | None: ...


@dataclass(frozen=True)
class SourceSnapshot:
    """One source at one moment. frames: number shown so far, which also numbers the newest, `step`."""

    name: str
    state: str
    dropped: int
    error: str | None
    frames: int
    step: Step | None = field(compare=False, repr=False)


@dataclass
class _Shown:
    step: Step | None = None
    frames: int = 0
    points: deque[tuple[int, Prediction]] = field(default_factory=lambda: deque(maxlen=_MOST_POINTS))


class Board:
    """Per source, the newest step and the predictions of the last `SPAN` seconds; source states; stage times; rows.

    For two threads: one writes, one reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, _Shown] = {}
        self._states: Sequence[SourceState] = ()
        self._count = 0  # of predictions; numbers them
        self._rows: deque[str] = deque(maxlen=MOST_ROWS)
        self.stages: Sequence[StageTimes] = ()

    def put(self, step: Step, states: Sequence[SourceState]) -> None:
        with self._lock:
            self._states = states
            if step.source not in self._shown:
                self._forget_ended()
            shown = self._shown.setdefault(step.source, _Shown())
            if shown.step is not None and step.frame.time < shown.step.frame.time:
                shown.points.clear()  # the source restarted
            shown.step = step
            shown.frames += 1
            for prediction in step.predictions:
                self._count += 1
                shown.points.append((self._count, prediction))
                self._rows.append(csv_row(prediction))
            while shown.points and shown.points[0][1].time < step.frame.time - SPAN:
                shown.points.popleft()

    def _forget_ended(self) -> None:
        """Drop ended sources' frames, which are large, and predictions older than all rows: there may be many files."""
        ended = {state.name for state in self._states if state.state in ("ended", "failed")}
        held = [shown for name, shown in self._shown.items() if name in ended and (shown.step or shown.points)]
        for shown in held[:-_MOST_ENDED]:
            shown.step = None
            if shown.points and shown.points[-1][0] <= self._count - MOST_ROWS:
                shown.points.clear()

    def snapshots(self) -> list[SourceSnapshot]:
        """Return all sources as they are now, in the order of the run."""
        with self._lock:
            states = {state.name: state for state in self._states}
            snapshots = []
            for name in dict.fromkeys((*states, *self._shown)):
                shown, state = self._shown.get(name, _Shown()), states.get(name)
                told = ("running", 0, None) if state is None else (state.state, state.dropped, state.error)
                snapshots.append(SourceSnapshot(name, *told, shown.frames, shown.step))
            return snapshots

    def rows(self) -> list[str]:
        """Return the newest `MOST_ROWS` predictions as lines of CSV, oldest first."""
        with self._lock:
            return list(self._rows)

    def points(self, after: int) -> tuple[dict[str, list[Prediction]], int]:
        """Return, per source, the predictions numbered above `after`, oldest first, and the highest number so far."""
        with self._lock:
            found: dict[str, list[Prediction]] = {}
            for name, shown in self._shown.items():
                new = []
                for number, prediction in reversed(shown.points):
                    if number <= after:
                        break
                    new.append(prediction)
                if new:
                    found[name] = new[::-1]
            return found, self._count
