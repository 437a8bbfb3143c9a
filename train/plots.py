"""Plot of the confusion matrix."""

from __future__ import annotations

from pathlib import Path

from ..runtime.storage import atomic_write
from .metrics import Scores


def plot_confusion(scores: Scores, title: str, path: Path) -> None:
    """Draw shares of each true class (rows) by predicted class, with counts, to the PNG `path`, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(scores.classes)
    figure = Figure(figsize=(2 + 0.75 * count, 1.5 + 0.65 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = scores.confusion / scores.support.clip(min=1)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), scores.classes, rotation=40, ha="right")
    axes.set_yticks(range(count), scores.classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}\nWAR {scores.war:.1%}, UAR {scores.uar():.1%}")
    for row in range(count):
        for column in range(count):
            colour = "white" if shares[row, column] > 0.5 else "black"
            cell = f"{shares[row, column]:.0%}\n{scores.confusion[row, column]}"
            axes.text(column, row, cell, ha="center", va="center", color=colour, fontsize="small")
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120)
