"""Are the outputs complete however a run ends? Sends `dfer-run` a signal at random moments.

    python benchmarks/signals.py WORK [--times 100]

Reads the demo clip and writes a table, JSON lines, a video and a plot, `times` runs for each of SIGINT, SIGTERM and
SIGKILL, at moments from the start of the process to the end of a full run. Existing outputs must then be valid: rows
with all columns, videos that play. SIGINT and SIGTERM must give exit status 0 and no traceback, and leave no other
files. In the first tenth of a second, before Python can handle signals, the system's own status is accepted.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.sources import open_source

EARLY = 0.1
OUTPUTS = {"o.csv", "o.jsonl", "o.mp4", "o.png"}


def run_once(clip: Path, folder: Path, number: int, after: float) -> list[str]:
    """Send the signal after `after` seconds; return what was wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = ["--csv", "o.csv", "--jsonl", "o.jsonl", "--save-video", "o.mp4", "--plot", "o.png"]
    command = [Path(sys.executable).with_name("dfer-run"), clip.resolve(), *options]
    run = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(after)
    ended = run.poll() is not None
    run.send_signal(number)
    told = run.communicate()[1]
    wrong = []
    early = after < EARLY and run.returncode == -number
    if number != signal.SIGKILL and not early:
        wrong += [f"exit status {run.returncode}"] * (run.returncode != 0) + ["a traceback"] * ("Traceback" in told)
        if wrong and told.strip():
            wrong.append(f"it said {told.strip()[-200:]!r}")
    elif number == signal.SIGKILL and not ended:
        time.sleep(1.0)  # its ffmpeg ends with its input
    left = {path.name for path in folder.iterdir()}
    if number != signal.SIGKILL and left - OUTPUTS:
        wrong.append(f"left {sorted(left - OUTPUTS)}")
    return wrong + [f"{name}: {fault}" for name in sorted(left & OUTPUTS) if (fault := fault_of(folder / name))]


def fault_of(path: Path) -> str:
    """Return why an output is not valid; "" if it is."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                lengths = {len(row) for row in csv.reader(file)}
            return "" if len(lengths) == 1 else f"rows of {sorted(lengths)} columns"
        if path.suffix == ".jsonl":
            return "" if all(map(json.loads, path.read_text().splitlines())) else "an empty line"
        if path.suffix == ".mp4":
            with open_source(path) as source:
                return "" if any(True for _ in source) else "no frame"
        return "" if path.read_bytes().startswith(b"\x89PNG") else "no PNG"
    except Exception as error:  # any error means that the output is not valid
        return str(error)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--times", default=100, show_default=True)
def main(work: Path, times: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    clip = work / "demo.mp4"
    if not clip.exists():
        film_demo(clip)
    whole = [Path(sys.executable).with_name("dfer-run"), clip, "--save-video", work / "whole.mp4", "--quiet"]
    begun = time.monotonic()
    subprocess.run(whole, check=True, stderr=subprocess.DEVNULL)
    took = time.monotonic() - begun
    rng, bad = random.Random(0), 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        found = 0
        for _ in range(times):
            after = rng.uniform(0, took)
            if wrong := run_once(clip, work / "run", number, after):
                found += 1
                print(f"{number.name} after {after:.2f} s: {'; '.join(wrong)}", flush=True)
        print(f"{number.name}: {times - found} of {times} as they should be", flush=True)
        bad += found
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
