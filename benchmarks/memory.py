"""Does the runtime's memory stay flat, and is no row lost? Reads a video repeatedly, as one endless source.

    python benchmarks/memory.py clip.mp4 --hours 1

Prints resident memory every five minutes of video and exits with 1 if it grew by more than --limit-mb after the
first minute of wall-clock time. With --rows, there must be exactly one row per sampling period: for a clip that shows
one face all the time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from time import monotonic

import click
import psutil

from dfer.runtime import Recognizer
from dfer.runtime.profiling.profiler import RepeatedSource


@click.command()
@click.argument("video", type=click.Path(exists=True, path_type=Path))
@click.option("--hours", default=1.0, show_default=True, help="Hours of video.")
@click.option("--limit-mb", default=10.0, show_default=True)
@click.option("--rows", is_flag=True, help="Demand one row per sampling period.")
def main(video: Path, hours: float, limit_mb: float, rows: bool) -> None:
    process = psutil.Process()
    start, settled, reported, frames, predictions = monotonic(), 0.0, 0.0, 0, 0
    with Recognizer() as recognizer:
        expected = round(hours * 3600 * recognizer.fps)
        for step in recognizer.steps(RepeatedSource(video, recognizer.fps, math.inf)):
            if step.frame.time >= hours * 3600:
                break
            frames += 1
            predictions += len(step.predictions)
            if not settled and monotonic() - start >= 60:
                settled = process.memory_info().rss / 1e6
            if step.frame.time >= reported:
                memory = process.memory_info().rss / 1e6
                print(f"{reported / 60:5.0f} min  {frames:7d} frames  {memory:7.1f} MB", flush=True)
                reported += 300
    took = monotonic() - start
    now = process.memory_info().rss / 1e6
    print(f"{frames} frames in {took:.0f} s ({frames / took:.0f}/s), {predictions} rows of {expected} sampling periods")
    print(f"after a minute {settled:.1f} MB, at the end {now:.1f} MB: {now - settled:+.1f} (limit {limit_mb:g})")
    sys.exit(now - settled > limit_mb or (rows and predictions != expected))


if __name__ == "__main__":
    main()
