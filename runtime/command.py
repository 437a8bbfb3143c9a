"""`dfer-run`: expressions from a camera, a video, images or a stream."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .engines import PROVIDERS
from .errors import DferError, reports_errors

if TYPE_CHECKING:
    from rich.console import Console

    from .outputs import OutputPaths
    from .recognizer import Recognizer
    from .smoothing import Smoother
    from .sources import Source
    from .summary import Summary

DEMO_FOLDER = Path("demo-output")
DEMO_CLIP = "clip.mp4"

EPILOG = """\b
Examples:
  dfer-run --demo                                      # makes a clip and reads it; writes demo-output/
  dfer-run clip.mp4 --csv clip.csv --plot clip.png
  dfer-run clip.mp4 --smooth 0.5 --plot clip.html      # a page with time and probabilities under the pointer
  dfer-run clip.mp4 --bundle align.dfer --save-video annotated.mp4
  dfer-run frames/ --fps 8 --jsonl frames.jsonl        # a folder of images, 8 to a second
  dfer-run --camera 0 --csv live.csv                   # Ctrl-C ends
  dfer-run rtsp://user:password@host/stream --csv live.csv

\b
Exit status: 0 done, 1 an input or output cannot be used, 2 wrong options.
"""


@click.command(epilog=EPILOG)
@click.argument("source", required=False)
@click.option("--camera", type=click.IntRange(min=0), metavar="N", help="Read camera N.")
@click.option("--demo", is_flag=True, help="Make a clip of drawn faces and read that.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Model to run; default: $DFER_BUNDLE, else the demo bundle.",
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write predictions as CSV.")
@click.option(
    "--jsonl",
    "jsonl_path",
    type=click.Path(path_type=Path),
    help="Write predictions as JSON lines, after one about the run.",
)
@click.option(
    "--save-video",
    "video_path",
    type=click.Path(path_type=Path),
    help="Write the annotated video (.mp4); of several sources one each: out-1.mp4, out-2.mp4 …",
)
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw the timeline (.png, .svg, .pdf, .html)."
)
@click.option("--show", is_flag=True, help="Show the annotated frames in a window; q or Esc ends.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output.")
@click.option("--quiet", is_flag=True, help="Print errors and warnings only.")
@click.option("--window", default=2.0, show_default=True, help="Seconds of video behind each prediction.")
@click.option("--fps", default=8.0, show_default=True, help="Frames sampled per second; images per second.")
@click.option(
    "--smooth",
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Smooth probabilities over so many seconds, and change the label only for a clear or lasting lead.",
)
@click.option(
    "--classes",
    "classes_path",
    type=click.Path(path_type=Path),
    help='JSON file that renames, joins or leaves out classes: {"happiness": "positive", "neutral": null}.',
)
@click.option(
    "--neutral-prior",
    type=float,
    metavar="P",
    help='Correct for a model trained with the share P of "neutral", as if all classes had been equally frequent.',
)
@click.option("--max-faces", type=click.IntRange(min=1), metavar="N", help="Read the N largest faces only.")
@click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="auto",
    show_default=True,
    help="Where to run.",
)
@click.option(
    "--precision",
    type=click.Choice(("auto", "fp32", "fp16", "int8")),
    default="auto",
    show_default=True,
    help="Of the bundle's graphs; auto: what it recommends for the provider.",
)
@reports_errors
def main(
    source: str | None,
    camera: int | None,
    demo: bool,
    bundle: Path | None,
    csv_path: Path | None,
    jsonl_path: Path | None,
    video_path: Path | None,
    plot_path: Path | None,
    show: bool,
    as_json: bool,
    quiet: bool,
    window: float,
    fps: float,
    smooth: float,
    classes_path: Path | None,
    neutral_prior: float | None,
    max_faces: int | None,
    provider: str,
    precision: str,
) -> None:
    """Read facial expressions from SOURCE: a video file, a folder of images, an image or a URL.

    Files are read completely; cameras and streams until Ctrl-C, always at the newest frame.
    """
    if sum((source is not None, camera is not None, demo)) != 1:
        raise click.UsageError("name one SOURCE, or --camera N, or --demo")
    from rich.console import Console

    from .classes import ClassMap
    from .outputs import OutputPaths
    from .smoothing import Smoother

    if demo:
        csv_path = csv_path or DEMO_FOLDER / "predictions.csv"
        video_path = video_path or DEMO_FOLDER / "annotated.mp4"
        plot_path = plot_path or DEMO_FOLDER / "timeline.png"
        try:
            DEMO_FOLDER.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise DferError(f"{DEMO_FOLDER} is a file, and the demo writes a folder of that name; move it") from error
    paths = OutputPaths(csv_path, jsonl_path, video_path, plot_path)
    paths.check([DEMO_FOLDER / DEMO_CLIP if demo else Path(source) if source else None])
    console = Console(stderr=True, highlight=False, quiet=quiet)
    with _open_recognizer(console, bundle, provider, precision, window, fps, max_faces) as recognizer:
        from .sources import open_source

        place = _film_demo(console) if demo else camera if camera is not None else source
        assert place is not None  # one of the three was given
        smoother = Smoother(
            recognizer.classes,
            seconds=smooth,
            gap=max(1.0, 2.25 / fps),
            neutral_prior=neutral_prior,
            names=None if classes_path is None else ClassMap.read(classes_path, recognizer.classes),
        )
        with open_source(place, fps, recognizer.warn) as opened:
            summary = _run(console, recognizer, smoother, opened, paths, show, demo)
    if as_json:
        click.echo(json.dumps(summary.to_json(), ensure_ascii=False, indent=2))


def _open_recognizer(
    console: Console,
    bundle: Path | None,
    provider: str,
    precision: str,
    window: float,
    fps: float,
    max_faces: int | None,
) -> Recognizer:
    from rich.markup import escape

    from .recognizer import Recognizer

    named = os.environ.get("DFER_BUNDLE") if bundle is None else bundle
    recognizer = Recognizer(
        named or None,
        provider=provider,
        precision=precision,
        window=window,
        fps=fps,
        max_faces=max_faces,
        warn=lambda message: console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True),
    )
    if named:
        origin = f"bundle {named}" + ("" if bundle else " (from $DFER_BUNDLE)")
    else:
        origin = "the bundled demo bundle (a demonstration; name your own with --bundle or $DFER_BUNDLE)"
    console.print(
        f"model: {origin}; provider: {recognizer.provider}; precision: {recognizer.precision}",
        soft_wrap=True,
        markup=False,
    )
    return recognizer


def _film_demo(console: Console) -> Path:
    from rich.progress import Progress

    from .demo import film_demo

    path = DEMO_FOLDER / DEMO_CLIP
    with Progress(console=console) as progress:
        task = progress.add_task("drawing the demo clip", total=None)
        film_demo(path, lambda done, total: progress.update(task, completed=done, total=total))
    return path


def _run(
    console: Console,
    recognizer: Recognizer,
    smoother: Smoother,
    source: Source,
    paths: OutputPaths,
    show: bool,
    show_predictions: bool,
) -> Summary:
    """Read the source to its end or Ctrl-C, write the outputs and print what was found."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .outputs import Outputs
    from .predictions import Prediction
    from .rows import run_header
    from .summary import Summary, predictions_table, stages_table

    summary = Summary(step=1 / recognizer.fps, gap=max(1.0, 2.25 / recognizer.fps))
    shown: list[Prediction] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with ExitStack() as stack:
        window = None
        if show:
            from .display import Window

            window = stack.enter_context(Window([source.name]))
        outputs = stack.enter_context(
            Outputs(
                paths,
                smoother.classes,
                {source.name: source.rate},
                recognizer.stopwatch,
                header=run_header(recognizer, smoother.classes, [source.name]),
                window=window,
            )
        )
        progress = stack.enter_context(Progress(*columns, console=console))
        task = progress.add_task(f"reading {escape(source.name.rsplit('/', 1)[-1])}", total=source.count, now="")
        try:
            for step in map(smoother.refine_step, recognizer.steps(source)):
                outputs.write(step)
                if window is not None and window.closed:
                    break
                for prediction in step.predictions:
                    summary.add(prediction)
                if step.predictions:
                    now = "  ".join(f"{p.track_id}: {p.label} {p.confidence:.0%}" for p in step.predictions)
                    progress.update(task, now=now)
                if show_predictions:
                    shown.extend(step.predictions)
                progress.advance(task)
        except KeyboardInterrupt:
            console.print("stopped")
    if shown:
        console.print(predictions_table(shown, every=1.0))
    console.print(summary.table() if summary.predictions else "no face was found")
    console.print(stages_table(recognizer.stopwatch))
    for line in outputs.written():
        console.print(f"wrote {line}", soft_wrap=True, markup=False)
    return summary
