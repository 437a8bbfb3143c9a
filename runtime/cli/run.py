"""`dfer-run`: expressions from cameras, videos, images and streams."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..engines import PRECISIONS, PROVIDERS
from ..errors import DferError, reports_errors

if TYPE_CHECKING:
    from rich.console import Console

    from ..outputs.writer import OutputPaths
    from ..recognizer import Recognizer
    from ..sources import SourceSpec

DEMO_FOLDER = Path("demo-output")
DEMO_CLIP = "clip.mp4"
WEB_PORT = 8000

EPILOG = """\b
Examples:
  dfer-run --demo                                      # makes a clip and reads it; writes demo-output/
  dfer-run clip.mp4 --csv clip.csv --plot clip.html
  dfer-run clip.mp4 --bundle align.dfer --save-video annotated.mp4
  dfer-run --camera 0 --web                            # look at http://127.0.0.1:8000; Ctrl-C ends
  DFER_TOKEN=$(openssl rand -hex 16) dfer-run --camera 0 --web --host 0.0.0.0
  dfer-run 'clips/*.mp4' --csv all.csv --smooth 0.5    # several at once, in one table
  dfer-run rtsp://user:password@host/stream --camera 0 --jsonl live.jsonl
  dfer-run frames/ --fps 8 --jsonl frames.jsonl        # a folder of images, 8 to a second
  dfer-run clip.mp4 --boxes boxes.csv                  # faces where you say: frame,x,y,w,h[,track]
  dfer-run clip.mp4 --quiet --json | jq .faces

\b
Exit status: 0 done (also when ended by Ctrl-C or a signal to terminate), 1 an input or output cannot be used,
2 wrong options, 3 some of several sources failed on the way and the others were read.
"""


def _parse_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter("must look like 1280x720")
    return int(width), int(height)


_PATH = click.Path(path_type=Path)


@click.command(epilog=EPILOG)
@click.argument("sources", nargs=-1)
@click.option("--camera", "cameras", type=click.IntRange(min=0), multiple=True, metavar="N", help="Read camera N.")
@click.option("--demo", is_flag=True, help="Make a clip of drawn faces and read that.")
@click.option("--bundle", type=_PATH, help="Model to run; default: $DFER_BUNDLE, else the demo bundle.")
@click.option("--csv", "csv_path", type=_PATH, help="Write predictions as CSV.")
@click.option("--jsonl", "jsonl_path", type=_PATH, help="Write predictions as JSON lines, after one about the run.")
@click.option(
    "--save-video", "video_path", type=_PATH, help="Write the annotated video (MP4); of several sources OUT-1.mp4, …"
)
@click.option("--plot", "plot_path", type=_PATH, help="Draw the timeline (.png, .svg, .pdf, .html).")
@click.option("--show", is_flag=True, help="Show the annotated frames in a window; q or Esc ends.")
@click.option(
    "--web",
    is_flag=False,
    flag_value=str(WEB_PORT),
    metavar="[PORT]",
    help=f"Serve a live page in the browser, at port {WEB_PORT} unless named.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of that page; others need --token.")
@click.option("--token", envvar="DFER_TOKEN", help="What viewers of that page must know; better in $DFER_TOKEN.")
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
    type=_PATH,
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
    "--min-face",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    metavar="PIXELS",
    help="Side of the smallest face that is read; the larger, the faster.",
)
@click.option(
    "--detect-every",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="FRAMES",
    help="Look for faces so often; between, they are carried along by their motion.",
)
@click.option("--boxes", "boxes_path", type=_PATH, help="CSV of where the faces are, in place of the detector.")
@click.option("--realtime", is_flag=True, help="Play files as if they were live, dropping what comes too soon.")
@click.option("--size", callback=_parse_size, metavar="WxH", help="Ask cameras for this size.")
@click.option("--camera-fps", type=float, metavar="N", help="Ask cameras for so many frames per second.")
@click.option(
    "--reconnect-tries",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Tries in a row to get a lost camera or stream back.",
)
@click.option("--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True, help="Where to run.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Of the bundle's graphs; auto: what it recommends for the provider.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the model; default: physical cores."
)
@reports_errors
def main(sources: tuple[str, ...], cameras: tuple[int, ...], demo: bool, **options: Any) -> None:
    """Read facial expressions from SOURCES: video files, folders of images, images, patterns of either, or URLs.

    Files are read completely; cameras and streams until Ctrl-C, always at the newest frame.
    """
    web: str | None = options["web"]
    if web is not None and not web.isdecimal():  # `--web clip.mp4`
        sources, web = (web, *sources), str(WEB_PORT)
    if demo == bool(sources or cameras):
        raise click.UsageError("name SOURCES, or --camera N, or --demo")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both end cleanly
    failed = _run((*sources, *cameras), demo, None if web is None else int(web), options)
    sys.exit(3 if failed else 0)


def _run(places: tuple[SourceSpec, ...], demo: bool, port: int | None, options: dict[str, Any]) -> bool:
    """Open everything, read, report; whether some source failed on the way."""
    from rich.console import Console

    from ..faces.boxes import read_boxes
    from ..outputs.writer import OutputPaths
    from ..pipeline.class_map import ClassMap
    from ..pipeline.smoothing import Smoother
    from ..sources import SourceReaders, expand, open_sources
    from .runner import Run

    paths = OutputPaths(*(options[f"{kind}_path"] for kind in ("csv", "jsonl", "video", "plot")))
    if demo:
        paths = _demo_paths(paths)
        places = (DEMO_FOLDER / DEMO_CLIP,)
    places = tuple(expand(places))
    paths.check(None if isinstance(place, int) else Path(place) for place in places)
    console = Console(stderr=True, highlight=False)
    told = Console(stderr=True, highlight=False, quiet=options["quiet"])
    with ExitStack() as stack:
        live = sum(isinstance(place, int) or "://" in str(place) for place in places)
        recognizer = stack.enter_context(_open_recognizer(console, told, live, options))
        names = options["classes_path"]
        smoother = Smoother(
            recognizer.classes,
            seconds=options["smooth"],
            gap=max(1.0, 2.25 / recognizer.fps),
            neutral_prior=options["neutral_prior"],
            names=None if names is None else ClassMap.read(names, recognizer.classes),
        )
        page = None
        if port is not None:
            from ..web import WebPage

            page = stack.enter_context(WebPage(smoother.classes, port, options["host"], options["token"]))
            console.print(f"live page: {page.url}", soft_wrap=True, markup=False)
        if demo:
            _film_demo(told)
        opened = open_sources(
            places,
            recognizer.fps,
            recognizer.warn,
            size=options["size"],
            fps=options["camera_fps"],
            reconnect_tries=options["reconnect_tries"],
        )
        readers = stack.enter_context(SourceReaders(opened, realtime=options["realtime"]))
        boxes = options["boxes_path"] and read_boxes(options["boxes_path"], [reader.name for reader in readers.readers])
        run = Run(recognizer, smoother, readers, paths, told, boxes=boxes, show=options["show"], page=page, keep=demo)
        run.report(run.read())
        failures = run.failures()
    for name, reason in failures.items():
        console.print(f"error: {name}: {reason}", soft_wrap=True, markup=False)
    if options["as_json"]:
        click.echo(json.dumps({**run.summary.to_json(), "failed": failures}, ensure_ascii=False, indent=2))
    return bool(failures)


def _open_recognizer(console: Console, told: Console, live: int, options: dict[str, Any]) -> Recognizer:
    """The model; warnings go to `console`, what runs to `told`. live: how many sources are."""
    from rich.markup import escape

    from ..machine import default_threads
    from ..recognizer import Recognizer

    bundle: Path | None = options["bundle"]
    named = os.environ.get("DFER_BUNDLE") if bundle is None else bundle
    chosen = ("provider", "precision", "window", "fps", "max_faces", "min_face", "detect_every")
    recognizer = Recognizer(
        named or None,
        threads=options["threads"] or default_threads(live),
        warn=lambda message: console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True),
        **{name: options[name] for name in chosen},
    )
    if named:
        origin = f"bundle {named}" + ("" if bundle else " (from $DFER_BUNDLE)")
    else:
        origin = "the bundled demo bundle (a demonstration; name your own with --bundle or $DFER_BUNDLE)"
    told.print(
        f"model: {origin}; provider: {recognizer.provider}; precision: {recognizer.precision}",
        soft_wrap=True,
        markup=False,
    )
    return recognizer


def _demo_paths(wanted: OutputPaths) -> OutputPaths:
    """Where the demo writes what was not given another place; its folder is made."""
    from ..outputs.writer import OutputPaths

    try:
        DEMO_FOLDER.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise DferError(f"{DEMO_FOLDER} is a file, and the demo writes a folder of that name; move it") from error
    return OutputPaths(
        wanted.csv or DEMO_FOLDER / "predictions.csv",
        wanted.jsonl,
        wanted.video or DEMO_FOLDER / "annotated.mp4",
        wanted.plot or DEMO_FOLDER / "timeline.png",
    )


def _film_demo(console: Console) -> None:
    from rich.progress import Progress

    from ..procedural.demo import film_demo

    with Progress(console=console) as progress:
        task = progress.add_task("drawing the demo clip", total=None)
        film_demo(DEMO_FOLDER / DEMO_CLIP, lambda done, total: progress.update(task, completed=done, total=total))
