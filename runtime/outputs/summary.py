"""A summary of a run per face, in constant memory, and the tables that show it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..predictions import Prediction, Step, longest_gap
from ..timing import StageTimes

if TYPE_CHECKING:
    from rich.table import Table

_MOST_TRACKS = 500
"""Faces remembered individually; beyond that, those seen most briefly are only counted."""
_MOST_ROWS = 20  # of the table
_SETTLED = 10.0  # media seconds after which an unseen face is unlikely to return


@dataclass
class TrackSummary:
    """first, last: media time in seconds. predictions: how many. confidence: mean of their labels', 0..1.

    seconds: per label, how long it was shown. transitions: how often one label followed another.
    photo: whether it is of a photograph, where times are meaningless.
    """

    first: float
    last: float
    photo: bool = False
    predictions: int = 0
    confidence: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    label: str = ""

    def shares(self) -> list[tuple[str, float]]:
        """Return labels and their share of the time in which the face was classified, largest first."""
        total = sum(self.seconds.values())
        longest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return [(label, seconds / total) for label, seconds in longest]

    def to_json(self) -> dict[str, Any]:
        shares = self.shares()
        return {
            "first_s": round(self.first, 4),
            "last_s": round(self.last, 4),
            "predictions": self.predictions,
            "dominant": shares[0][0],
            "confidence": round(self.confidence, 4),
            "shares": {label: round(share, 4) for label, share in shares},
            "transitions": [
                {"from": before, "to": after, "count": count}
                for (before, after), count in self.transitions.most_common()
            ],
        }


def predictions_apart(step: Step) -> Iterator[Prediction]:
    """Yield a frame's predictions. Those of photographs name the file as source, since its faces are other people."""
    source = _source_of(step)
    return (one if one.source == source else replace(one, source=source) for one in step.predictions)


def _source_of(step: Step) -> str:
    """Return the name of the photograph or, for other frames, of the source."""
    if step.frame.photo and PurePath(step.source).name != step.frame.file:  # equal for a single image
        return f"{step.source.rstrip('/')}/{step.frame.file}"
    return step.source


class Summary:
    """Aggregates predictions per source and track; every photograph is a source of its own.

    A prediction counts for the time since the one before it; the first, and one after a gap, for `step` seconds.

    profile_samples: samples of faces in profile, which could not be classified.
    poor: predictions from faces of poor quality.
    step: seconds between samples. Time without a prediction for more than a second, or two steps if that is longer,
    does not count for the face. rates: frames per second of sources that may have fewer than are sampled, or None;
    looked up at each prediction, since some are not known earlier.
    """

    def __init__(self, step: float = 0.125, rates: Mapping[str, float | None] | None = None) -> None:
        self._step, self._rates = step, {} if rates is None else rates
        self.tracks: dict[tuple[str, int], TrackSummary] = {}
        self.predictions = 0
        self.profile_samples = self.poor = 0
        self.forgotten = 0  # faces that are only counted
        self._read: dict[str, bool] = {}  # per source of the run, or photograph, whether a face was classified
        self._latest: dict[str, float] = {}  # per source

    def write(self, step: Step) -> None:
        """Add the predictions of a step."""
        source = _source_of(step)
        self._read[source] = self._read.get(source, False) or bool(step.predictions)
        for prediction in predictions_apart(step):
            self.add(prediction, step.frame.photo)
        self.profile_samples += len(step.profiles)

    def close(self) -> None:
        """Do nothing: no resources are held."""

    discard = close

    def add(self, prediction: Prediction, photo: bool = False) -> None:
        """Add the next prediction of its track. photo: whether it is of a photograph."""
        key = prediction.source, prediction.track_id
        track = self.tracks.get(key)
        if track is None:
            if len(self.tracks) >= 2 * _MOST_TRACKS:
                self._thin()
            track = self.tracks[key] = TrackSummary(prediction.time, prediction.time, photo)
        self._latest[prediction.source] = prediction.time
        elapsed = prediction.time - track.last
        step = max(self._step, 1 / (self._rates.get(prediction.source) or math.inf))
        stood = elapsed if track.predictions > 0 and 0 < elapsed <= longest_gap(step) else step
        track.seconds[prediction.label] = track.seconds.get(prediction.label, 0.0) + stood
        # An overloaded machine classifies a present face only now and then.
        if track.predictions > 0 and prediction.label != track.label and elapsed <= _SETTLED:
            track.transitions[track.label, prediction.label] += 1
        track.label, track.last = prediction.label, prediction.time
        track.predictions += 1
        track.confidence += (prediction.confidence - track.confidence) / track.predictions
        self.predictions += 1
        self.poor += prediction.poor

    @property
    def faceless(self) -> list[str]:
        """Names of the sources, or photographs, in which no face was classified."""
        return [source for source, read in self._read.items() if not read]

    def to_json(self) -> dict[str, Any]:
        """Return plain values: {"predictions", "poor", "profile_samples": n, "faces": [{"source", …}],
        "faces_left_out": n, "faceless": [source, …]}.

        Per face: first_s, last_s (media time), predictions, dominant (the label shown longest), confidence (mean),
        shares ({label: share of the time}), transitions ([{from, to, count}], most frequent first).
        """
        faces = [{"source": source, "track": number, **track.to_json()} for (source, number), track in self._sorted()]
        return {
            "predictions": self.predictions,
            "poor": self.poor,
            "profile_samples": self.profile_samples,
            "faces": faces,
            "faces_left_out": self.forgotten,
            "faceless": self.faceless,
        }

    def table(self) -> Table:
        """Return a table with a row per face, for the 20 with most predictions: when seen, number of predictions, mean
        confidence, and shares of expressions. For photographs: file, label and confidence."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        most = sorted(self.tracks, key=lambda key: self.tracks[key].predictions, reverse=True)[:_MOST_ROWS]
        left_out = len(self.tracks) - len(most) + self.forgotten
        photos = {track.photo for track in self.tracks.values()}
        only_photos = photos == {True}
        caption = f"and {left_out} more" if True in photos else f"and {left_out} faces seen more briefly"
        table = Table(title="faces", caption=caption if left_out else None, box=box.SIMPLE_HEAD, pad_edge=False)
        many = only_photos or len(self._read.keys() | {source for source, _ in self.tracks}) > 1
        if only_photos:
            table.add_column("file", overflow="fold", max_width=32)
        elif many:
            table.add_column("source", overflow="fold", max_width=18)
        for heading in ("face",) if only_photos else ("face", "seen (s)", "n", "mean"):
            table.add_column(heading, justify="right", no_wrap=True, overflow="fold")
        if only_photos:
            table.add_column("label")
            table.add_column("confidence", justify="right")
        else:
            table.add_column("expressions, share of time", ratio=3)
            table.add_column("changes", ratio=2)
        for (source, number), track in self._sorted(most):
            place = (escape(_short(source)), str(number)) if many else (str(number),)
            confidence = f"{track.confidence:.0%}"
            if only_photos:
                table.add_row(*place, track.label, confidence)
            elif track.photo:
                table.add_row(*place, "", "", confidence, track.label, "")
            else:
                shares = ", ".join(f"{label} {share:.0%}" for label, share in track.shares())
                seen = f"{track.first:.1f}–{track.last:.1f}"
                table.add_row(*place, seen, str(track.predictions), confidence, shares, _changes(track))
        return table

    def _sorted(self, keys: Iterable[tuple[str, int]] | None = None) -> list[tuple[tuple[str, int], TrackSummary]]:
        """Return the tracks by source, in order of their first prediction, then by number."""
        order = {source: place for place, source in enumerate(self._latest)}
        chosen = self.tracks if keys is None else keys
        return [(key, self.tracks[key]) for key in sorted(chosen, key=lambda key: (order[key[0]], key[1]))]

    def _thin(self) -> None:
        """Drop the faces seen most briefly among those that have left; if none has, those seen most briefly."""
        brief = sorted(self.tracks, key=lambda key: self.tracks[key].predictions)
        brief.sort(key=lambda key: self._latest[key[0]] - self.tracks[key].last <= _SETTLED)  # absent faces first
        for key in brief[:_MOST_TRACKS]:
            del self.tracks[key]
            self.forgotten += 1
        left = {source for source, _ in self.tracks}
        self._latest = {source: time for source, time in self._latest.items() if source in left}


def _changes(track: TrackSummary) -> str:
    """Return how often the label changed, and the most frequent change if there is a single one."""
    total = track.transitions.total()
    if not total:
        return "0"
    ((before, after), count), *others = track.transitions.most_common(2)
    if total == 1:
        return f"1: {before} → {after}"
    if count == 1 or (others and others[0][1] == count):
        return str(total)
    return f"{total}, mostly {before} → {after} ({count})"


def _short(source: str) -> str:
    """Return the last part of a source's name, or its end if that is long."""
    name = PurePath(source).name or source
    return name if len(name) <= 32 else "…" + name[-31:]


def predictions_table(predictions: list[Prediction], every: float) -> Table:
    """Return a table of predictions about every `every` seconds, a column per face."""
    from rich.table import Table

    faces = sorted({prediction.track_id for prediction in predictions})
    table = Table(title="predictions")
    table.add_column("time (s)", justify="right")
    for face in faces:
        table.add_column(f"face {face}")
    rows: dict[int, dict[int, Prediction]] = {}
    for prediction in predictions:
        rows.setdefault(int(prediction.time / every), {})[prediction.track_id] = prediction
    for row in rows.values():
        last = max(prediction.time for prediction in row.values())
        cells = [
            f"{row[face].label} {row[face].confidence:.0%}" + (" (warmup)" if row[face].state == "warmup" else "")
            if face in row
            else ""
            for face in faces
        ]
        table.add_row(f"{last:.2f}", *cells)
    return table


def stages_table(rows: Iterable[StageTimes]) -> Table:
    """Return a table with a row per stage: how often it ran and how long it took."""
    from rich import box
    from rich.table import Table

    table = Table(title="latency per stage (ms)", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for heading in ("n", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = (row.mean, row.p50, row.p90, row.p95, row.p99, row.max)
        told = (f"{figure:.2f}" if figure < 100 else f"{figure:.0f}" for figure in figures)
        table.add_row(row.stage, str(row.n), *told)
    return table
