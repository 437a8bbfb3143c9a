"""What a run found, per face, in memory that does not grow with its length; and the tables that show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .predictions import Prediction
from .stages import Stopwatch

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class TrackSummary:
    """first, last: media time in seconds. labels: how many predictions had each label."""

    first: float
    last: float
    labels: Counter[str] = field(default_factory=Counter)


class Summary:
    """Counts predictions per track."""

    def __init__(self) -> None:
        self.tracks: dict[int, TrackSummary] = {}
        self.predictions = 0

    def add(self, prediction: Prediction) -> None:
        blank = TrackSummary(prediction.time, prediction.time)
        track = self.tracks.setdefault(prediction.track_id, blank)
        track.last = prediction.time
        track.labels[prediction.label] += 1
        self.predictions += 1

    def table(self) -> Table:
        """A row per face: when it was seen and how its predictions are shared out."""
        from rich.table import Table

        table = Table(title="faces")
        for heading in ("face", "from (s)", "to (s)", "predictions", "expressions, share of predictions"):
            table.add_column(heading, justify="left" if heading.startswith("expr") else "right")
        for number, track in sorted(self.tracks.items()):
            total = track.labels.total()
            shares = ", ".join(f"{label} {count / total:.0%}" for label, count in track.labels.most_common())
            table.add_row(str(number), f"{track.first:.2f}", f"{track.last:.2f}", str(total), shares)
        return table


def predictions_table(predictions: list[Prediction], every: float) -> Table:
    """Predictions at about every `every` seconds, a column per face."""
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
            f"{row[face].label} {row[face].confidence:.0%}" + (" (warming)" if row[face].state == "warming" else "")
            if face in row
            else ""
            for face in faces
        ]
        table.add_row(f"{last:.2f}", *cells)
    return table


def stages_table(watch: Stopwatch) -> Table:
    """A row per stage: how often it ran and how long it took."""
    from rich.table import Table

    table = Table(title="latency per stage (ms)")
    table.add_column("stage")
    for heading in ("n", "mean", "p50", "p90", "p99", "max"):
        table.add_column(heading, justify="right")
    for row in watch.report():
        figures = (row.mean, row.p50, row.p90, row.p99, row.max)
        table.add_row(row.stage, str(row.n), *(f"{figure:.2f}" for figure in figures))
    return table
