"""`dfer-prepare`: videos → folders of aligned faces, and prompts for captions of them."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...runtime.cli.options import command, refuse_given, version_option
from ...runtime.errors import DferError, ParameterError, explains_interruption, reports_errors
from ...runtime.machine import default_workers
from .options import workers_option

if TYPE_CHECKING:
    from rich.console import Console

    from ..preparation.films import Outcome
    from ..preparation.photographs import Prepared, State

SHOWN = 20
"""The most clips of a kind that the summary names; the report names all."""

TURNED = "faces not upright, not fit for training (turn these the right way up; the same command cuts them anew)"

GONE = "faces of clips that are no longer there, which training would read; delete their folders unless you want them"

LEFT_OUT: dict[State, str] = {"no-face": "without a face", "unreadable": "unreadable", "copy": "copies of others"}

EPILOG = """\b
Examples:
  dfer-prepare films/ faces/                        # films/a/1.mp4 becomes faces/a/1/00000.jpg, 00001.jpg, …
  dfer-prepare MAFW/data/clips mafw-faces/ --workers 8
  dfer-prepare frames/ faces/ --size 224            # folders of frames work as well
  dfer-prepare FER2013/ stills/ --photos            # photographs, a folder for each class
  dfer-prepare votes.csv stills/ --photos           # photographs in a table, with labels or votes
  dfer-prepare faces/ prompts.jsonl --caption-prompts   # what to ask a model about each training clip

\b
Stopped half-way? The same command goes on where it ended. It also cuts anew what has changed since.
Exit status: 0 done, 1 no clip gave a face or something cannot be used, 2 a command line that cannot be understood.
"""


@command(epilog=EPILOG)
@click.argument("videos", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=128,
    show_default=True,
    help="Side of the faces that are written, in pixels.",
)
@click.option("--photos", is_flag=True, help="VIDEOS are photographs: a folder of classes, or a table.")
@click.option(
    "--caption-prompts",
    is_flag=True,
    help="Cut nothing: write to the file OUT, a line of JSON for each training clip of VIDEOS, what to ask a language "
    "model that sees pictures for a caption, and about which frames.",
)
@workers_option("Processes that cut faces.", default_workers(os.cpu_count() or 1), "one for each CPU core")
@version_option
@reports_errors
def main(videos: Path, out: Path, size: int, photos: bool, caption_prompts: bool, workers: int) -> None:
    """Cut the main face out of all clips in the folder VIDEOS and write it to OUT, aligned as dfer-run aligns it.

    Clips are videos or folders of frames, however deep. Each becomes a folder of JPEGs; frames without the face are
    left out. OUT/report.csv says for each clip in how many of its frames the face was found.
    Of clips and photographs whose faces do not stand upright the command warns.

    With --photos, VIDEOS is a folder of photographs ([train|val|test/]CLASS/picture) or a table of them (CSV: image,
    label or votes per class, person, split). Crops go to OUT/images, their table to OUT/labels.csv; photographs without
    a face are listed in OUT/report.csv and copies of others in OUT/copies.csv.

    With --caption-prompts, VIDEOS is a folder of clips ([train|val|test/]CLASS/clip, or others) or a table of them
    (CSV: clip, split). Each line of OUT has clip, prompt, and frames: files, or numbers of frames in video. With the
    model's answer as "text", the lines are what dfer-train --captions reads.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from ...runtime.cli.progress import LongProgress
    from ..preparation.films import REPORT, prepare
    from ..preparation.photographs import prepare_photographs

    console = Console(highlight=False, soft_wrap=True)
    if caption_prompts:
        if photos:
            raise ParameterError("photos", "captions tell how faces move, so there are none of photographs")
        refuse_given(["size", "workers"], "no effect with --caption-prompts, which cuts no faces; leave it out")
        _write_prompts(console, videos, out)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    going_on = explains_interruption("the same command goes on from here")
    with going_on, LongProgress(*columns, console=console) as progress:
        task = progress.add_task("cutting faces", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        comparing = progress.add_task("comparing photographs", total=None, visible=False)

        def compare(done: int, total: int) -> None:
            progress.update(comparing, completed=done, total=total, visible=True)

        def tell(line: str) -> None:
            console.print(line, markup=False)

        def warn(line: str) -> None:
            tell(f"warning: {line}")

        if photos:
            prepared = prepare_photographs(videos, out, size, workers, show, compare, tell, warn)
        else:
            outcomes = prepare(videos, out, size, workers, show, warn)
    if photos:
        _summarise_photos(console, prepared, out)
        return
    _summarise(console, outcomes)
    console.print(f"wrote {out / REPORT}", markup=False)
    if not any(outcome.state in ("ok", "turned") for outcome in outcomes):
        tried = sum(outcome.state != "gone" for outcome in outcomes)
        raise DferError(f"none of the {tried} clips gave a face")


def _write_prompts(console: Console, videos: Path, out: Path) -> None:
    from ..captions.prompts import write_prompts

    asked, unreadable = write_prompts(videos, out)
    console.print(f"{asked} clips to ask about, {len(unreadable)} unreadable{_listed(unreadable)}", markup=False)
    console.print(f'wrote {out}; next: add each answer as "text", then dfer-train --captions', markup=False)


def _listed(names: list[str]) -> str:
    """Return the first `SHOWN` names, after a colon."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f": {', '.join(names[:SHOWN])}{more}" if names else ""


def _summarise_photos(console: Console, prepared: Prepared, out: Path) -> None:
    from ..data.lists import TABLE
    from ..preparation.photographs import COPIES, KEPT, REPORT

    total, ok = len(prepared.states), prepared.count("ok")
    if not any(state in KEPT for state in prepared.states.values()):
        raise DferError(f"none of the {total} photographs gave a face; see {out / REPORT}")
    left_out = ", ".join(f"{prepared.count(state)} {words}" for state, words in LEFT_OUT.items())
    turned = sorted(name for name, state in prepared.states.items() if state == "turned")
    told = f"{len(turned)} turned, " if turned else ""
    console.print(f"{total} photographs: {ok} ok, {told}{left_out}; see {REPORT} and {COPIES}", markup=False)
    if turned:
        console.print(f"warning: {TURNED}{_listed(turned)}", markup=False)
    if prepared.split_by != "given":
        console.print(f"splits are by {prepared.split_by}: of those without one 10 % are val, the others train")
    stills = f"--stills {shlex.quote(str(out / TABLE))}"
    told = (
        f"next: dfer-train … {stills} with clips of these classes, or, of the seven expressions, dfer-pretrain faces.pt"
    )
    console.print(f"wrote {out / TABLE}; {told} {stills}", markup=False)


def _summarise(console: Console, outcomes: list[Outcome]) -> None:
    counts = Counter(outcome.state for outcome in outcomes)
    gone = [outcome.clip for outcome in outcomes if outcome.state == "gone"]
    outcomes = [outcome for outcome in outcomes if outcome.state != "gone"]
    frames, faces = sum(outcome.frames for outcome in outcomes), sum(outcome.faces for outcome in outcomes)
    turned = f"{counts['turned']} turned, " if counts["turned"] else ""
    console.print(
        f"{len(outcomes)} clips: {counts['ok']} ok, {turned}{counts['no-face']} without a face, "
        f"{counts['unreadable']} unreadable; faces in {faces} of {frames} frames"
    )
    kinds = {"turned": f"warning: {TURNED}", "no-face": "without a face", "unreadable": "unreadable"}
    for state, words in kinds.items():
        names = [outcome.clip for outcome in outcomes if outcome.state == state]
        if names:
            console.print(f"{words}{_listed(names)}", markup=False)
    if gone:
        console.print(f"warning: {GONE}{_listed(gone)}", markup=False)
