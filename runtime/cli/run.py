"""`dfer-run`: expressions from cameras, videos, images and streams."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from ..errors import DferError, reports_errors
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
    threads_option,
    version_option,
    window_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..predictions import Prediction, Step
    from ..sources import SourceSpec
    from .runner import RunResult

DEMO_FOLDER = Path("demo-output")
DEMO_CLIP = "clip.mp4"
WEB_PORT = 8000
_NAMED = 5  # sources without a face that are named; others are only counted

EPILOG = """\b
Examples:
  dfer-run --demo                                      # makes a clip and reads it; writes demo-output/
  dfer-run clip.mp4 --csv clip.csv --plot clip.html
  dfer-run clip.mp4 --bundle align.dfer --save-video annotated.mp4
  dfer-run --camera 0 --web                            # look at http://127.0.0.1:8000; Ctrl-C ends
  DFER_TOKEN=$(openssl rand -hex 16) dfer-run --camera 0 --web --host 0.0.0.0
  dfer-run 'clips/*.mp4' --csv all.csv --smooth 0.5    # several at once, in one table
  dfer-run clips/ --out-dir results/                   # a table, a video and a plot for each video of a folder
  dfer-run rtsp://user:password@host/stream --camera 0 --jsonl live.jsonl
  dfer-run frames/ --fps 8 --jsonl frames.jsonl        # a folder of images, 8 to a second
  dfer-run album/ --photos --csv album.csv             # photographs: each on its own, named in column file
  ffmpeg -i clip.mp4 -f matroska - | dfer-run -        # standard input
  dfer-run clip.mp4 --boxes boxes.csv                  # your own face boxes: frame,x,y,w,h[,track]
  dfer-run ceiling.mp4 --rotate auto --unsure 0.5      # a camera hung upside down; say so when not sure
  dfer-run clip.mp4 --quiet --json | jq .faces
  dfer-run clip.mp4 --csv - | grep surprise

\b
Exit status: 0 done (also when ended by Ctrl-C or a signal to terminate), 1 an input, output or value cannot
be used, 2 a command line that cannot be understood, 3 some of several sources, or photographs, could not be read and
the others were.
"""


def _parse_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter("must look like 1280x720")
    return int(width), int(height)


_PATH = click.Path(path_type=Path)


@command(epilog=EPILOG)
@click.argument("sources", nargs=-1)
@click.option("--camera", "cameras", type=click.IntRange(min=0), multiple=True, metavar="N", help="Read camera N.")
@click.option("--demo", is_flag=True, help="Make a clip of drawn faces and read that.")
@bundle_option
@click.option("--csv", type=_PATH, help="Write predictions as CSV; - for standard output.")
@click.option("--jsonl", type=_PATH, help="Write predictions as JSON lines, after one about the run; - as above.")
@click.option(
    "--save-video", "video", type=_PATH, help="Write the annotated video (MP4); of several sources OUT-1.mp4, …"
)
@click.option("--plot", type=_PATH, help="Draw the timeline (.png, .svg, .pdf, .html).")
@click.option(
    "--out-dir",
    type=_PATH,
    metavar="FOLDER",
    help="Write NAME.csv, NAME.mp4 and NAME.png of each source to a folder; of photographs NAME.csv and "
    "NAME-pictures/.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Files to read at once; the others wait their turn. Default: as many as there are cores, half as many "
    "with --out-dir.",
)
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
@click.option(
    "--metrics", type=int, metavar="PORT", help="Tell Prometheus on this machine how the run is, at /metrics of a port."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output.")
@click.option(
    "--quiet",
    is_flag=True,
    help="Print errors and warnings only; where a port is 0, its address and what else is told first, too.",
)
@click.option("--verbose", is_flag=True, help="Print how long each stage took, too.")
@window_option
@click.option(
    "--fps", type=float, help="Frames sampled per second, default: as the model was trained; images per second."
)
@click.option(
    "--smooth",
    type=float,
    metavar="SECONDS",
    help="Smooth probabilities over so many seconds, and change the label only for a clear or lasting lead. Default: "
    "0.4 for live sources, 0 for files.",
)
@click.option(
    "--unsure",
    type=float,
    metavar="P",
    help="Call the label unsure where its probability is below P; default: the model's own limit, 0 for never.",
)
@rotate_option
@click.option(
    "--classes",
    type=_PATH,
    help='JSON file that renames, joins or leaves out classes: {"happiness": "positive", "neutral": null}.',
)
@click.option(
    "--neutral-prior",
    type=float,
    metavar="P",
    help='Correct for a model trained with the share P of "neutral", as if all classes had been equally frequent.',
)
@max_faces_option
@min_face_option
@detect_every_option
@click.option("--boxes", type=_PATH, help="CSV of where the faces are, in place of the detector.")
@click.option(
    "--photos/--no-photos",
    default=None,
    help="Read images as photographs, each on its own, or as one film. Default: as photographs where their sizes "
    "differ or their names are not numbered.",
)
@click.option(
    "--hwaccel",
    metavar="DEVICE",
    help="Decode video files on a device, by FFmpeg's name (cuda, qsv, videotoolbox, …); an error where it does not.",
)
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
@provider_option()
@precision_option
@threads_option
@version_option
@reports_errors
def main(sources: tuple[str, ...], cameras: tuple[int, ...], demo: bool, **options: Any) -> None:
    """Read facial expressions from SOURCES: video files, folders of images, images, patterns of either, or URLs.

    Files are read completely; cameras and streams until Ctrl-C, always at the newest frame.
    """
    web: str | None = options.pop("web")
    if web is not None and not web.isdecimal():  # `--web clip.mp4`
        sources, web = (web, *sources), str(WEB_PORT)
    given = click.get_current_context().get_parameter_source
    for name in ("host", "token"):
        if web is None and given(name) is ParameterSource.COMMANDLINE:  # $DFER_TOKEN may be meant for other runs
            raise click.UsageError(f"--{name} is of the live page; add --web")
    if demo == bool(sources or cameras):
        raise click.UsageError("name SOURCES, or --camera N, or --demo")
    for source in sources:
        if source.isdecimal() and not Path(source).exists():
            raise click.UsageError(f"{source}: no such file; for the camera of that number: --camera {source}")
    talk = Talk(options.pop("quiet"), options.pop("verbose"), options.pop("as_json"))
    if talk.as_json and "-" in (str(options["csv"]), str(options["jsonl"])):
        raise click.UsageError("--json goes to standard output, and so do rows with -; name a file for one of them")
    options["web"] = None if web is None else int(web)
    options["token"] = options["token"] if web is not None else None
    try:
        failed = _run((*sources, *cameras), demo, talk, options)
    except KeyboardInterrupt:
        raise SystemExit(0) from None  # before anything was read, or after everything was reported
    sys.exit(3 if failed else 0)


class Talk(NamedTuple):
    """How much is printed, and whether the summary goes to standard output as JSON."""

    quiet: bool
    verbose: bool
    as_json: bool


def _run(specs: tuple[SourceSpec, ...], demo: bool, talk: Talk, options: dict[str, Any]) -> bool:
    """Read and report; return whether some source failed."""
    from rich.console import Console

    from .run_options import RunOptions
    from .runner import run

    console = Console(stderr=True, highlight=False)
    told = Console(stderr=True, highlight=False, quiet=talk.quiet)
    tell_bundle(told)
    opening = console if 0 in (options["web"], options["metrics"]) else told  # a free port is printed nowhere else
    kept = KeptPredictions()
    if demo:
        specs = (DEMO_FOLDER / DEMO_CLIP,)
        _make_demo(told, options)
    result = run(
        RunOptions(specs, **options),
        sinks=[kept] if demo else [],
        warn=partial(tell_warning, console),
        tell=lambda message: opening.print(message, soft_wrap=True, markup=False),
        console=told,
    )
    _report(told, result, kept.predictions, talk.verbose)
    for name, reason in result.failures.items():
        line = reason if reason.startswith(name) else f"{name}: {reason}"
        console.print(f"error: {line}", soft_wrap=True, markup=False)
    if talk.as_json:
        found = {
            **result.summary.to_json(),
            "failed": dict(result.failures),
            "frames_dropped": dict(result.dropped),
            "skipped_share": round(result.skipped_share, 4),
        }
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    return bool(result.failures)


def _report(console: Console, result: RunResult, kept: list[Prediction], verbose: bool) -> None:
    """Print the results, durations if `verbose`, and the files written."""
    from ..outputs.summary import predictions_table, stages_table

    summary = result.summary
    if result.stopped:
        console.print("stopped")
    if kept:
        console.print(predictions_table(kept, every=1.0))
    console.print(summary.table() if summary.predictions else result.absence, soft_wrap=True)
    if summary.predictions and (faceless := summary.faceless):
        more = f" and {len(faceless) - _NAMED} more" if len(faceless) > _NAMED else ""
        console.print(f"no face read in: {', '.join(faceless[:_NAMED])}{more}", soft_wrap=True, markup=False)
    if summary.poor:
        console.print(
            f"{summary.poor} of {summary.predictions} predictions are from faces too small, blurred, turned or badly "
            "found to trust"
        )
    if summary.profile_samples:
        console.print(
            f"{summary.profile_samples} samples show a face from the side, which cannot be read, and have no row"
        )
    if verbose:
        console.print(stages_table(result.timing))
    for name, count in result.dropped.items():
        console.print(f"{name}: {count} frames came too soon and were dropped", markup=False)
    if result.skipped_share:
        console.print(
            f"too much for this machine: {result.skipped_share:.0%} of the live samples were left out, so faces were "
            "read less often; a lower --fps, --max-faces or a smaller model would fit"
        )
    for line in result.files:
        console.print(f"wrote {line}", soft_wrap=True, markup=False)


class KeptPredictions:
    """A sink that keeps all predictions, for the demo's table."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []

    def write(self, step: Step) -> None:
        self.predictions.extend(step.predictions)

    def close(self) -> None:
        """Do nothing: no resources are held."""

    discard = close


def _make_demo(console: Console, options: dict[str, Any]) -> None:
    """Draw the demo's clip; set default names for the files written beside it."""
    from rich.progress import Progress

    from ..outputs.writer import OutputPaths
    from ..procedural.demo import demo_script, film_demo

    try:
        DEMO_FOLDER.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise DferError(f"{DEMO_FOLDER} is a file, and the demo writes a folder of that name; move it") from error
    for option, name in (("csv", "predictions.csv"), ("video", "annotated.mp4"), ("plot", "timeline.png")):
        options[option] = options[option] or DEMO_FOLDER / name
    options["script"] = demo_script()
    clip = DEMO_FOLDER / DEMO_CLIP
    outputs = OutputPaths(*(options[name] for name in ("csv", "jsonl", "video", "plot")))
    outputs.check([])
    if clip.resolve() in (path.resolve() for path in outputs.wanted(1)):  # before it is drawn, which takes seconds
        raise DferError(f"{clip} is the source; name another output")
    with Progress(console=console) as progress:
        task = progress.add_task("drawing the demo clip", total=None)
        film_demo(clip, lambda done, total: progress.update(task, completed=done, total=total))
