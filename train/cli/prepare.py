"""`dfer-prepare`: films → folders of aligned faces."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...runtime.cli.options import version_option
from ...runtime.errors import DferError, reports_errors
from .options import workers_option

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.preparation import Outcome

SHOWN = 20
"""Clips without faces that the summary names; the report names all."""

EPILOG = """\b
Examples:
  dfer-prepare films/ faces/                        # films/a/1.mp4 becomes faces/a/1/00000.jpg, 00001.jpg, …
  dfer-prepare MAFW/data/clips mafw-faces/ --workers 8
  dfer-prepare frames/ faces/ --size 224            # folders of frames work as well

\b
Stopped half-way? The same command goes on where it ended.
Exit status: 0 done, 1 no clip gave a face or something cannot be used, 2 wrong options.
"""


@click.command(epilog=EPILOG)
@click.argument("videos", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=128,
    show_default=True,
    help="Side of the faces that are written, in pixels.",
)
@workers_option("Processes that cut faces.", os.cpu_count() or 1, "one for each CPU core")
@version_option
@reports_errors
def main(videos: Path, out: Path, size: int, workers: int) -> None:
    """Cut the main face out of all clips in the folder VIDEOS and write it to OUT, aligned as dfer-run aligns it.

    Clips are videos or folders of frames, however deep. Each becomes a folder of JPEGs; frames without the face are
    left out. OUT/report.csv says for each clip in how many of its frames the face was found.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.preparation import REPORT, prepare

    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("cutting faces", total=None)
            outcomes = prepare(
                videos, out, size, workers, lambda done, total: progress.update(task, completed=done, total=total)
            )
    except KeyboardInterrupt:
        raise DferError("stopped; the same command goes on from here") from None
    _summarise(console, outcomes)
    console.print(f"wrote {out / REPORT}", markup=False)
    if not any(outcome.state == "ok" for outcome in outcomes):
        raise DferError(f"none of the {len(outcomes)} clips gave a face")


def _summarise(console: Console, outcomes: list[Outcome]) -> None:
    counts = Counter(outcome.state for outcome in outcomes)
    frames, faces = sum(outcome.frames for outcome in outcomes), sum(outcome.faces for outcome in outcomes)
    console.print(
        f"{len(outcomes)} clips: {counts['ok']} ok, {counts['no-face']} without a face, "
        f"{counts['unreadable']} unreadable; faces in {faces} of {frames} frames"
    )
    for state, words in (("no-face", "without a face"), ("unreadable", "unreadable")):
        names = [outcome.clip for outcome in outcomes if outcome.state == state]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            console.print(f"{words}: {', '.join(names[:SHOWN])}{more}", markup=False)
