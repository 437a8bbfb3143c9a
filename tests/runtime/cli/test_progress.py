"""Progress fits the terminal, and logs tell of it, too."""

from __future__ import annotations

import io
from pathlib import PureWindowsPath

import numpy as np
import pytest
from rich.console import Console

from dfer.runtime.cli.progress import LongProgress, OverallBar, ProgressBars
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Prediction, Step
from dfer.runtime.sources import Frame
from web_scene import State


class Reader(State):
    count = 14_400
    taken = 7_200
    done = False


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_source_is_one_line_however_much_is_seen(width: int) -> None:
    name = "a folder/an interview with a very long name, second take.mp4"
    shares = np.full(7, 1 / 7, np.float32)
    faces = [Prediction(name, 9, 1.0, track, (0, 0, 9, 9), shares, EXPRESSIONS, "ready") for track in range(1, 9)]
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    bars = ProgressBars(console, [Reader(name)])  # type: ignore[list-item]  # as much of a reader as is asked for
    bars.write(Step(name, Frame(np.zeros((9, 9, 3), np.uint8), 9, 1.0), tuple(faces), ()))
    (line,) = console.render_lines(bars.progress.get_renderable(), pad=False)
    text = "".join(segment.text for segment in line)
    assert len(text) <= width
    assert "1/14400" in text and "an interview" in text


def test_the_folders_of_a_windows_path_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.cli.progress.PurePath", PureWindowsPath)
    name, frame = "C:\\films\\a.mp4", Frame(np.zeros((9, 9, 3), np.uint8), 8, 1.0)
    console = Console(file=io.StringIO())
    for bars in (ProgressBars(console, [Reader(name)]), OverallBar(console, [Reader(name)])):  # type: ignore[list-item]
        bars.write(Step(name, frame, (), ()))
        assert bars.progress.tasks[0].description == "a.mp4"


def test_many_sources_share_one_bar() -> None:
    readers = [Reader(f"clips/{number}.mp4") for number in range(150)]
    for reader in readers[:30]:
        reader.done = True
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    bar = OverallBar(console, readers)  # type: ignore[arg-type]
    bar.write(Step("clips/30.mp4", Frame(np.zeros((9, 9, 3), np.uint8), 8, 1.0), (), ()))
    (line,) = console.render_lines(bar.progress.get_renderable(), pad=False)
    text = "".join(segment.text for segment in line)
    assert "30 of 150 sources" in text and "30.mp4" in text
    assert bar.progress.tasks[0].completed == 30.5


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_has_a_line_a_minute(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dfer.runtime.cli.progress.monotonic", lambda: now[0])
    written = io.StringIO()
    progress = LongProgress(console=Console(file=written, width=40, force_terminal=terminal))
    progress.get_time = lambda: now[0]
    reading = progress.add_task("reading videos", total=None)
    encoding = progress.add_task("encoding", total=400, note="")
    for second in range(1, 150):
        now[0] = float(second)
        if second < 70:
            progress.update(reading, completed=second)
        else:
            progress.update(encoding, advance=1, note="[b] loss 0.5")
            progress.advance(encoding, 1)
    lines = ["reading videos: 60 done", "encoding: 25 %, about 3 minutes left, [b] loss 0.5"]
    assert written.getvalue().splitlines() == ([] if terminal else lines)
