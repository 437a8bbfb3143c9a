"""The picture of a recording: for every track, how the class probabilities went."""

from __future__ import annotations

from array import array
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .palette import colour_of
from .predictions import Prediction

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

_MOST_FACES = 20
"""Rows of the plot; a street full of passers-by would make a picture that nothing opens."""


class Timeline:
    """Collects predictions (about 30 bytes each) and plots them, at most the 20 faces seen longest.

    As a sink: `write` each prediction, `close` to draw `path` (.png, .svg or .pdf).
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._path, self._classes = path, classes
        self._rows: dict[int, array[float]] = {}

    def write(self, prediction: Prediction) -> None:
        row = self._rows.setdefault(prediction.track_id, array("f"))
        row.append(prediction.time)
        row.extend(prediction.probabilities.tolist())

    def close(self) -> None:
        """Draw the plot, completely or not at all."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        longest = sorted(self._rows, key=lambda track: len(self._rows[track]), reverse=True)
        tracks = sorted(longest[:_MOST_FACES])
        figure = Figure(figsize=(10, 1.2 + 1.5 * max(1, len(tracks))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(max(1, len(tracks)), 1, sharex=True, squeeze=False)[:, 0]
        colours = ["#{:02x}{:02x}{:02x}".format(*colour_of(name)) for name in self._classes]
        for axis, track in zip(axes, tracks, strict=False):
            rows = np.array(self._rows[track]).reshape(-1, 1 + len(self._classes))
            for start, end in _unbroken(rows[:, 0]):
                axis.stackplot(rows[start:end, 0], rows[start:end, 1:].T, colors=colours)
            axis.set(ylabel=f"face {track}", ylim=(0, 1), yticks=[0, 0.5, 1])
        if not tracks:
            axes[0].text(0.5, 0.5, "no face was found", ha="center", va="center", transform=axes[0].transAxes)
        left_out = len(self._rows) - len(tracks)
        axes[-1].set_xlabel("time (s)" + (f"; {left_out} faces seen more briefly are left out" if left_out else ""))
        figure.legend(
            handles=[Patch(color=colour, label=name) for colour, name in zip(colours, self._classes, strict=True)],
            loc="outside upper center",
            ncols=len(self._classes),
            frameon=False,
            fontsize="small",
        )
        partial = self._path.with_name(f".{self._path.name}.part{self._path.suffix}")
        figure.savefig(partial, dpi=120)
        partial.replace(self._path)

    def discard(self) -> None:
        """Draw nothing."""


def _unbroken(times: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Index ranges between gaps: where a face was away, the plot stays empty."""
    if len(times) < 2:
        return [(0, len(times))]
    steps = np.diff(times)
    breaks = np.flatnonzero(steps > 4 * np.median(steps)) + 1
    edges = [0, *breaks.tolist(), len(times)]
    return list(pairwise(edges))
