"""Does the runtime's memory stay flat? Reads a video over and over and compares the process's size early and late.

    python benchmarks/memory.py clip.mp4 --minutes 10 --settle 1

Prints resident memory once a minute and exits with 1 when it grew by more than --limit-mb after --settle minutes.
Minutes are wall-clock minutes; the video is read as fast as it goes, as one endless source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import click
import psutil

from dfer.runtime import Frame, Recognizer, open_source
from dfer.runtime.sources import Source


class Loop(Source):
    """A file that starts again when it ends; index and time go on rising. Ends after `seconds` of wall-clock time."""

    def __init__(self, path: Path, seconds: float) -> None:
        with open_source(path) as source:
            self.name, self.rate, self.count = source.name, source.rate, None
        self._path, self._seconds = path, seconds

    def __iter__(self) -> Iterator[Frame]:
        end = monotonic() + self._seconds
        index, start = 0, 0.0
        while monotonic() < end:
            time = start
            with open_source(self._path) as source:
                for frame in source:
                    time = start + frame.time
                    yield Frame(frame.image, index, time)
                    index += 1
                    if monotonic() >= end:
                        return
            start = time + 1 / (self.rate or 25.0)


@click.command()
@click.argument("video", type=click.Path(exists=True, path_type=Path))
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--settle", default=1.0, show_default=True, help="Minutes after which memory must stay.")
@click.option("--limit-mb", default=20.0, show_default=True)
def main(video: Path, minutes: float, settle: float, limit_mb: float) -> None:
    process = psutil.Process()
    start, settled, reported, frames, predictions = monotonic(), 0.0, 0.0, 0, 0
    with Recognizer() as recognizer:
        for step in recognizer.steps(Loop(video, minutes * 60)):
            frames += 1
            predictions += len(step.predictions)
            elapsed = (monotonic() - start) / 60
            if not settled and elapsed >= settle:
                settled = process.memory_info().rss / 1e6
            if elapsed >= reported:
                print(f"{elapsed:5.1f} min  {frames:7d} frames  {process.memory_info().rss / 1e6:7.1f} MB", flush=True)
                reported += 1
    now = process.memory_info().rss / 1e6
    print(f"{frames} frames, {predictions} predictions; after {settle:g} min {settled:.1f} MB, at the end {now:.1f} MB")
    print(f"grown by {now - settled:.1f} MB (limit {limit_mb:g})")
    sys.exit(now - settled > limit_mb)


if __name__ == "__main__":
    main()
