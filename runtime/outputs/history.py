"""The predictions of a whole recording, thinned to the resolution of a plot, in constant memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..predictions import Prediction

MOST_POINTS = 600
"""Per face; a longer recording has fewer of them per second."""
MOST_FACES = 20
"""Shown; a street full of passers-by would make a plot too large to open."""

_MOST_SERIES = 100  # remembered until it is known who is seen longest
_FINEST = 1 / 256  # seconds; below the step of the fastest sampling
_SETTLED = 10.0  # media seconds after which an unseen face is unlikely to return


class ProbabilitySeries:
    """The probabilities of one face over time: at most `MOST_POINTS` means over spans of equal length.

    If there would be more, the spans double and their means are merged in pairs. Spans without a prediction have no
    point, so that absences stay visible.
    """

    def __init__(self, classes: int) -> None:
        self._span = _FINEST
        self._rows = np.zeros(
            (64, 3 + classes)
        )  # number of the span, predictions in it, sums of time and probabilities
        self._count = 0
        self.predictions = 0
        self.last = 0.0

    def add(self, time: float, probabilities: NDArray[np.float32]) -> None:
        """Add probabilities at `time` (media seconds, rising)."""
        row = np.array([np.floor(time / self._span), 1.0, time, *probabilities])
        if self._count and self._rows[self._count - 1, 0] == row[0]:
            self._rows[self._count - 1, 1:] += row[1:]
        else:
            if self._count == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[self._count] = row
            self._count += 1
        while self._count > MOST_POINTS:
            self._halve()
        self.predictions += 1
        self.last = time

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times [N] and probabilities [N,C]."""
        rows = self._rows[: self._count]
        means = rows[:, 2:] / rows[:, 1:2]
        return means[:, 0], means[:, 1:]

    def stretches(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return the points split at absences. Each part is extended by half a step at both ends, so that even a face
        seen once is visible."""
        times, shares = self.points()
        if not len(times):
            return []
        steps = np.diff(times)
        step = max(self._span, float(np.median(steps)) if len(steps) else 0.125)
        edges = [0, *(np.flatnonzero(steps > 4 * step) + 1).tolist(), len(times)]
        parts = []
        for start, end in pairwise(edges):
            before, after = max(0.0, times[start] - step / 2), times[end - 1] + step / 2
            parts.append(
                (np.r_[before, times[start:end], after], np.r_[shares[[start]], shares[start:end], shares[[end - 1]]])
            )
        return parts

    def _halve(self) -> None:
        self._span *= 2
        rows = self._rows[: self._count]
        spans = np.floor(rows[:, 0] / 2)
        starts = np.flatnonzero(np.r_[True, np.diff(spans) != 0])
        joined = np.add.reduceat(rows, starts, axis=0)
        joined[:, 0] = spans[starts]
        self._count = len(joined)
        self._rows[: self._count] = joined


class History:
    """The probabilities over time of all faces of a run, by source and track."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._series: dict[tuple[str, int], ProbabilitySeries] = {}
        self._latest: dict[str, float] = {}  # per source
        self._forgotten = 0

    def add(self, prediction: Prediction) -> None:
        key = prediction.source, prediction.track_id
        if key not in self._series:
            if len(self._series) >= _MOST_SERIES:
                self._forget()
            self._series[key] = ProbabilitySeries(len(self.classes))
        self._latest[prediction.source] = prediction.time
        self._series[key].add(prediction.time, prediction.probabilities)

    def longest(self) -> list[tuple[tuple[str, int], str, ProbabilitySeries]]:
        """Return the `MOST_FACES` with most predictions, ordered by source and number: key, display name, series."""
        brief_last = sorted(self._series, key=lambda key: self._series[key].predictions, reverse=True)
        order = {source: place for place, source in enumerate(self._latest)}
        chosen = sorted(brief_last[:MOST_FACES], key=lambda key: (order[key[0]], key[1]))
        return [
            (
                (source, track),
                f"face {track}" if len(order) == 1 else f"{source} · face {track}",
                self._series[source, track],
            )
            for source, track in chosen
        ]

    @property
    def left_out(self) -> int:
        """How many faces `longest` leaves out."""
        return self._forgotten + max(0, len(self._series) - MOST_FACES)

    def _forget(self) -> None:
        """Drop the face seen most briefly among those that have left; if none has, the one seen most briefly."""
        key = min(
            self._series,
            key=lambda key: (
                self._latest[key[0]] - self._series[key].last <= _SETTLED,
                self._series[key].predictions,
            ),
        )
        del self._series[key]
        self._forgotten += 1
        if all(source != key[0] for source, _ in self._series):  # every photograph is a source
            del self._latest[key[0]]
