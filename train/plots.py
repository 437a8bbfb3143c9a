"""Plot of the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..runtime.outputs.timeline import drawable, plain_text, plot_fonts
from ..runtime.storage import atomic_write
from .metrics import Scores


def plot_confusion(scores: Scores, title: str, path: Path, warn: Callable[[str], object] = lambda _: None) -> None:
    """Draw shares of each true class (rows) by predicted class, with counts, to the PNG `path`, atomically.

    Letters that no installed font has become "?", and `warn` is called with the names that have some.
    """
    from matplotlib import rc_context

    if lost := [name for name in (*scores.classes, title) if "?" in drawable(name.replace("?", ""))]:
        warn(f"{path} has ? for letters of {', '.join(lost)}, since no installed font has them")
    with rc_context({"font.family": plot_fonts()}):
        _draw(scores, title, path)


def _draw(scores: Scores, title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, names = len(scores.classes), [plain_text(name) for name in scores.classes]
    figure = Figure(figsize=(2 + 0.75 * count, 1.5 + 0.65 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = scores.confusion / scores.support.clip(min=1)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), names, rotation=40, ha="right")
    axes.set_yticks(range(count), names)
    title = f"{plain_text(title)}\nWAR {scores.war:.1%}, UAR {scores.uar():.1%}"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row in range(count):
        for column in range(count):
            colour = "white" if shares[row, column] > 0.5 else "black"
            cell = f"{shares[row, column]:.0%}\n{scores.confusion[row, column]}"
            axes.text(column, row, cell, ha="center", va="center", color=colour, fontsize="small")
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120)
