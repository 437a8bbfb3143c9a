"""The plot of a recording: the class probabilities of every face over time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from ..predictions import Step
from ..storage import atomic_write
from .history import History, ProbabilitySeries
from .palette import hex_of
from .summary import Summary, predictions_apart

PLOT_SUFFIXES = (".png", ".svg", ".pdf", ".html")

Script = Sequence[Sequence[tuple[float, float, str]]]
"""Per face, ordered by number, the expressions it really shows: (start, end, class), media seconds."""

_BELOW, _THICK = -0.14, 0.16  # middle and height of the script's band, in units of probability
_FONTS = ["Noto Sans CJK JP", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"]
"""Used after the fonts of matplotlib's settings, if installed."""
_TEMPLATE = Path(__file__).parents[1] / "assets" / "timeline.html"


class Timeline:
    """Collects predictions and plots them, at most the 20 faces seen longest, each with at most 600 points.

    script: what faces really show, drawn below the predictions. header: `tables.run_header` of the run. rates: of
    sources, as for `Summary`. It is a sink: `write` each step, `close` to create `path`: .png, .svg, .pdf, or .html, a
    self-contained page with the model, a summary, and values under the pointer.
    """

    def __init__(
        self,
        path: Path,
        classes: tuple[str, ...],
        script: Script = (),
        header: Mapping[str, Any] | None = None,
        rates: Mapping[str, float | None] | None = None,
    ) -> None:
        self._path, self._history, self._script = path, History(classes), script
        self._header = dict(header or {})
        self._summary = Summary(1 / self._header.get("fps", 8.0), rates)

    def write(self, step: Step) -> None:
        self._summary.write(step)
        for prediction in predictions_apart(step):
            self._history.add(prediction)

    def close(self) -> None:
        """Draw the plot atomically; raises DferError when the file cannot be written."""
        with atomic_write(self._path) as aside:
            if self._path.suffix.lower() == ".html":
                draw_page(self._history, self._summary, self._header, aside, self._script)
            else:
                draw_plot(self._history, aside, self._script, self._header.get("window_s"))

    def discard(self) -> None:
        """Do nothing: no plot is drawn."""


def drawable(text: str) -> str:
    """Return a text for plots other than .html: with "?" for characters missing from all installed fonts."""
    if text.isascii():
        return text
    letters = _letters()
    return "".join(mark if ord(mark) in letters else "?" for mark in text)


@cache
def plot_fonts() -> list[str]:
    """Return the installed fonts that plots other than .html are drawn with, in order of preference."""
    from matplotlib import rcParams
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    chosen = [*rcParams["font.family"], *rcParams["font.sans-serif"], *_FONTS]  # the user's fonts first
    return list(dict.fromkeys(name for name in chosen if name in installed))


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset().union(*(get_font(findfont(name)).get_charmap() for name in plot_fonts()))


def draw_plot(history: History, path: Path, script: Script = (), window: float | None = None) -> None:
    """Draw a row per face, stacked areas over time: at each moment the prediction of the window that ends there, which
    is so many seconds long."""
    from matplotlib import rc_context

    with rc_context({"font.family": plot_fonts()}):
        _draw(history, path, script, window)


def _draw(history: History, path: Path, script: Script, window: float | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    faces = history.longest()
    figure = Figure(figsize=(10, 1.2 + 1.5 * max(1, len(faces))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(faces)), 1, sharex=True, squeeze=False)[:, 0]
    colours = [hex_of(name, history.classes) for name in history.classes]
    for axis, (_, name, series) in zip(axes, faces, strict=False):
        for times, shares in series.stretches():
            axis.stackplot(times, shares.T, colors=colours, linewidth=0)
        axis.set(ylim=(0, 1), yticks=[0, 0.5, 1])
        axis.margins(x=0)
        if len(name) <= 10:
            axis.set_ylabel(plain_text(name))
        else:
            axis.set_title(plain_text(name), fontsize="small", loc="left")
    if not faces:
        axes[0].text(0.5, 0.5, "no face was found", ha="center", va="center", transform=axes[0].transAxes)
    for axis, scenes in zip(axes, script, strict=False):
        for start, end, label in scenes:
            axis.barh(_BELOW, end - start, _THICK, start, color=hex_of(label, history.classes), edgecolor="white")
        if scenes:
            axis.set_ylim(_BELOW - _THICK / 2, 1)
            axis.text(scenes[0][0], _BELOW, " shown", va="center", fontsize="x-small")
    told = ["time (s)"]
    if window is not None:
        told.append(f"a label is about the last {round(window, 2):g} s")
    if history.left_out:
        told.append(f"{history.left_out} faces seen more briefly are left out")
    axes[-1].set_xlabel("; ".join(told))
    figure.legend(
        handles=[
            Patch(color=colour, label=plain_text(name)) for colour, name in zip(colours, history.classes, strict=True)
        ],
        loc="outside upper center",
        ncols=min(7, len(history.classes)),
        frameon=False,
        fontsize="small",
    )
    figure.savefig(path, dpi=120)


def draw_page(history: History, summary: Summary, header: Mapping[str, Any], path: Path, script: Script = ()) -> None:
    """Write the same as a self-contained page with the model's description, a cursor and a zoom."""
    shown = [[(*scene, hex_of(scene[2], history.classes)) for scene in scenes] for scenes in script]
    keys = "bundle_name", "model", "provider", "precision", "window_s", "started", "sources"
    content = {
        "classes": [{"name": name, "colour": hex_of(name, history.classes)} for name in history.classes],
        "faces": [
            {"name": name, "summary": _in_words(summary, key), "parts": _parts(series), "shown": scenes}
            for (key, name, series), scenes in zip(history.longest(), chain(shown, repeat([])), strict=False)
        ],
        "left_out": history.left_out,
        "run": {key: header[key] for key in keys if key in header},
    }
    # Unescaped, a "<" in a name could end the script.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(_TEMPLATE.read_text(encoding="utf-8").replace('"DATA"', data), encoding="utf-8")


def _in_words(summary: Summary, key: tuple[str, int]) -> str:
    """Return when a face was seen, and its expressions by their share of the time."""
    track = summary.tracks.get(key)
    if track is None:  # dropped because there were too many
        return ""
    shares = ", ".join(f"{label} {share:.0%}" for label, share in track.shares() if share >= 0.005)
    return f"{track.first:.1f} to {track.last:.1f} s, {track.predictions} predictions: {shares}"


def _parts(series: ProbabilitySeries) -> list[list[list[float]]]:
    """Return, per stretch, per point: time, then the probabilities."""
    return [
        [[round(float(time), 3), *(round(float(share), 3) for share in row)] for time, row in zip(*part, strict=True)]
        for part in series.stretches()
    ]


def plain_text(text: str) -> str:
    """Return a drawable text, escaping the dollar signs that matplotlib interprets as mathematics."""
    return drawable(text).replace("$", r"\$")
