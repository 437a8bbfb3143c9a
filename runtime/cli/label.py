"""`dfer-label`: labels whole corpora of videos with many processes on one machine or several."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import explains_interruption, reports_errors
from .options import (
    bundle_option,
    command,
    detect_every_option,
    max_faces_option,
    min_face_option,
    precision_option,
    provider_option,
    rotate_option,
    tell_bundle,
    tell_warning,
    version_option,
    window_option,
)

EPILOG = """\b
Examples:
  dfer-label videos/ out/ --bundle align.dfer              # all videos below a folder, a process per core
  dfer-label 'day1/*.mp4' day2/ out/ --workers 16
  dfer-label videos/ out/ --cluster head:6379 --cpus 4     # tasks of a Ray cluster (pip install 'dfer-edge[ray]')
  dfer-label videos/ out/ --shard 3/100                    # the third of a hundred jobs of a batch system
  dfer-label videos/ out/ --retry-failed                   # the same again for videos that could not be read

\b
OUT holds predictions/*.parquet (the columns of dfer-run's CSV, and segment), summary.csv (a line per video),
tracks.parquet (which tracks of a long video's parts are one person) and failures/*.json. The same command goes on
where it was interrupted. Videos longer than half an hour are cut, so that several workers read them.

\b
Exit status: 0 done (of a shard: its part), 1 interrupted, or an input, output or value cannot be used, 2 a command
line that cannot be understood, 3 some videos could not be read and the others were.
"""


class Shard(click.ParamType):  # type: ignore[type-arg]  # generic in click's later versions only
    """Parses K/N into a pair."""

    name = "K/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        part, _, parts = str(value).partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            self.fail(f"{value!r} is not K/N with K from 1 to N, such as 3/100", param, ctx)
        return int(part), int(parts)


@command(epilog=EPILOG)
@click.argument("videos", nargs=-1, required=True)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@bundle_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes on this machine, each with a model of its own; default: physical cores.",
)
@click.option(
    "--cluster", metavar="HOST:PORT", help="Work on the Ray cluster with this head, in place of this machine."
)
@click.option(
    "--cpus", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="CPUs of each task on the cluster."
)
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs of each task on it.")
@click.option("--shard", type=Shard(), help="Do the K-th of N parts of the work, for jobs of a batch system.")
@click.option("--retry-failed", is_flag=True, help="Do those units again in which a video could not be read.")
@provider_option()
@precision_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of each worker's model; more workers read faster than more threads. Default: 1, on a cluster "
    "--cpus.",
)
@window_option
@click.option("--fps", type=float, help="Frames per second to sample; default: the model's own.")
@rotate_option
@max_faces_option
@min_face_option
@detect_every_option
@version_option
@reports_errors
@explains_interruption("the same command goes on from here")
def main(
    videos: tuple[str, ...],
    out: Path,
    bundle: Path | None,
    workers: int | None,
    cluster: str | None,
    cpus: float,
    gpus: float,
    shard: tuple[int, int] | None,
    retry_failed: bool,
    **reading: Any,
) -> None:
    """Label all VIDEOS (files, patterns, folders with all below them) and write tables to the folder OUT."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

    from ..bundle import DEMO
    from .corpus.label import LabelOptions, label
    from .corpus.settings import LabelSettings
    from .progress import LongProgress

    settings = LabelSettings(str((bundle or DEMO).absolute()), **reading)
    options = LabelOptions(videos, out, settings, workers, cluster, cpus, gpus, shard, retry_failed)
    console = Console(stderr=True)
    tell_bundle(console)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with LongProgress(*columns, console=console) as bars:
        looking = bars.add_task("looking at videos", total=None, note="")
        labelling = bars.add_task("labelling", total=None, note="", visible=False)

        def planned(done: int, total: int) -> None:
            bars.update(looking, completed=done, total=total, note=f"{done}/{total}")

        def labelled(done: float, total: float) -> None:
            bars.update(looking, visible=False)
            bars.update(labelling, completed=done, total=total, visible=True)
            speed = bars.tasks[labelling].speed
            note = f"{done / 3600:.2f} of {total / 3600:.2f} h" + (f", {speed:.1f} × real time" if speed else "")
            bars.update(labelling, note=note)

        result = label(options, planned, labelled, partial(tell_warning, console))
    if result.left:
        console.print(f"{result.left} units are left for other shards; whoever ends last writes summary.csv")
    else:
        console.print(f"{result.videos} videos: {out / 'summary.csv'}", markup=False, soft_wrap=True)
    if result.failed:
        told = f"some videos could not be read: see {out / 'failures'}; --retry-failed does them again"
        console.print(told, markup=False, soft_wrap=True)
    sys.exit(3 if result.failed else 0)
