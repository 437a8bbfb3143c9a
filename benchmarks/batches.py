"""Memory and threads of a run over many files: 150 clips of 720×1280, one of them broken, in one `dfer-run`.

    python benchmarks/batches.py WORK [--clips 150]

WORK keeps the clips (3 s of a procedural person each) and gets the results: a common table, and with --outputs a table,
an annotated video and a plot for each. Memory (shared pages counted once) and threads are sums over the process and its
children, sampled ten times a second. Exits with 1 if a limit is exceeded, a clip has no rows, or the run's exit status
does not report the broken one.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import numpy as np
import psutil

from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.sources import open_source
from dfer.runtime.storage import atomic_write

WIDTH, HEIGHT, RATE, SECONDS = 720, 1280, 25, 3
MOST_MB, MOST_THREADS, SOME_FAILED = 600, 40, 3


def make_clips(folder: Path, count: int) -> None:
    """Write portrait-format clips, cut out of the demo clip at different times; the last is not a video."""
    folder.mkdir(parents=True, exist_ok=True)
    demo = folder.parent / "demo.mp4"
    if not demo.exists():
        film_demo(demo)
    with open_source(demo) as source:
        frames = [cv2.resize(frame.image[:, :202], (WIDTH, HEIGHT))[..., ::-1] for frame in source]
    for number in range(count - 1):
        path = folder / f"{number:03}.mp4"
        if path.exists():
            continue
        start = number * 2 % (len(frames) - SECONDS * RATE)
        with atomic_write(path) as aside:
            writer = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
            for frame in frames[start : start + SECONDS * RATE]:
                writer.write(np.ascontiguousarray(frame))
            writer.release()
    (folder / f"{count - 1:03}.mp4").write_bytes(b"no video")


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--clips", default=150, show_default=True)
@click.option("--outputs", is_flag=True, help="Write files for each clip, too.")
def main(work: Path, clips: int, outputs: bool) -> None:
    folder, results, together = work / f"clips-{clips}", work / f"results-{clips}", work / "all.csv"
    make_clips(folder, clips)
    command = [Path(sys.executable).with_name("dfer-run"), folder, "--csv", together]
    command += ["--out-dir", results] * outputs
    started = time.monotonic()
    run = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    memory = threads = 0.0
    while run.poll() is None:
        try:
            process = psutil.Process(run.pid)
            own = process.cmdline()  # a forked child before exec would count the parent's memory twice
            family = [process, *(one for one in process.children(recursive=True) if one.cmdline() != own)]
            memory = max(memory, sum(one.memory_full_info().pss for one in family) / 1e6)
            threads = max(threads, sum(one.num_threads() for one in family))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)
    took = time.monotonic() - started
    with together.open(newline="") as rows:
        read = {row["source"] for row in csv.DictReader(rows)}
    if outputs:
        read &= {
            str(folder / f"{path.stem}.mp4") for path in results.glob("*.mp4") if path.with_suffix(".csv").exists()
        }
    print(f"{clips} clips in {took:.0f} s, exit status {run.returncode}; {len(read)} with rows")
    print(f"at most {memory:.0f} MB (limit {MOST_MB}) and {threads:.0f} threads (limit {MOST_THREADS})")
    good = len(read) == clips - 1 and run.returncode == SOME_FAILED
    sys.exit(not good or memory > MOST_MB or threads > MOST_THREADS)


if __name__ == "__main__":
    main()
