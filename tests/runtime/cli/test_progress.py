"""Progress fits the terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from dfer.runtime.cli.progress import ProgressBars
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.predictions import Prediction, Step
from dfer.runtime.sources import Frame
from web_scene import State


class Reader(State):
    count = 14_400


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
