"""One Triton server for many streams: what sharing the encoder costs, and how many live streams there are on top.

    DFER_TRITON=FOLDER python benchmarks/inference_server.py WORK [--rounds 3] [--streams 8,16] [--write]

FOLDER holds the server (`.ci/triton FOLDER`). First four `dfer-run` processes that share it, against one process with
the encoder in itself: the same frames in all, in turns. Then clips played as live streams, spread over the four:
predictions against those that were due, frames dropped, processor time of clients and of the server, and how many faces
the server put into a batch. --write makes inference_server.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from pages import HERE, Check, publish, table
from scaling import RATE, compose

from dfer.export.model_repository import write_repository
from dfer.runtime.bundle import DEMO, Bundle

sys.path.insert(0, str(HERE.parent / "tests"))
from triton_servers import RealTriton

PROCESSES, SECONDS = 4, 40
SHARE = 0.8  # of the rate of one process
PER_SECOND = 8  # samples of a face


def start(clips: list[Path], *options: str) -> subprocess.Popen[str]:
    command = [Path(sys.executable).with_name("dfer-run"), *clips, "--quiet", "--json", *options]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)


def finish(runs: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    results = []
    for run in runs:
        out, _ = run.communicate()
        assert run.returncode == 0, out
        results.append(json.loads(out))
    return results


def processor_time(pid: int) -> float:
    """Seconds of a process and those it started."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("work", type=Path)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--streams", default="8,16")
    arguments.add_argument("--write", action="store_true")
    options = arguments.parse_args()
    options.work.mkdir(exist_ok=True)
    model = write_repository(Bundle.open(DEMO), options.work / "models", "fp32")
    clips = [compose(options.work, 1, number, SECONDS * RATE) for number in range(PROCESSES)]
    with RealTriton(options.work / "models", options.work) as server:
        provider = f"triton://127.0.0.1:{server.port}/{model.name}"
        rates: dict[str, list[float]] = {"one": [], "four": []}
        for _ in range(options.rounds):
            begun = time.perf_counter()
            finish([start(clips, "--provider", "cpu", "--precision", "fp32")])
            rates["one"].append(PROCESSES * SECONDS * RATE / (time.perf_counter() - begun))
            begun = time.perf_counter()
            finish([start([clip], "--provider", provider) for clip in clips])
            rates["four"].append(PROCESSES * SECONDS * RATE / (time.perf_counter() - begun))
        one, four = median(rates["one"]), median(rates["four"])
        rows = [
            live(server, model.name, options.work, int(count), provider)
            for count in options.streams.split(",")
            if count
        ]
    publish(
        "inference_server.md",
        "One Triton server for many streams",
        [
            "The demo model's encoder in FP32 on a Triton server (tritonserver 2.51, ONNX Runtime on its Python "
            "backend, two instances of one thread), on the same two cores as everything that uses it.",
            f"Four processes that share the server, each reading one clip of {SECONDS} s (640×360, one face): "
            f"{four:.0f} frames/s together. One process with the encoder in itself, reading the same four clips: "
            f"{one:.0f} frames/s. Starting is counted. Medians of runs that took turns.",
            "Clips played as live streams (`--realtime`) by four processes:",
            table(
                (
                    "streams",
                    "predictions of those due",
                    "frames dropped",
                    "faces in a batch",
                    "cores, clients",
                    "cores, server",
                ),
                rows,
            ),
            "Decoding, searching and following faces stay with the clients, and so does most of the work for a model "
            "as small as this. On paper, 50 cameras with one face each ask for 400 faces a second. Crops of 224×224 "
            "pixels are then 60 MB/s, half of a gigabit line, and a GPU has 2.5 ms for each; the demo model's are "
            "8 MB/s. 50 streams on these two cores starved the server's Python backend, which ended.",
        ],
        [
            Check(
                f"four processes with one server: at least {SHARE} of one process's frames/s",
                f"{four / one:.2f}",
                four / one >= SHARE,
            )
        ],
        options.write,
    )


def live(server: RealTriton, model: str, work: Path, count: int, provider: str) -> tuple[str, ...]:
    clips = [compose(work, 1, number % 8, SECONDS * RATE) for number in range(count)]
    before, spent = server.batches(model), processor_time(server.pid)
    begun, used = time.perf_counter(), os.times()
    tables = [work / f"live{number}.csv" for number in range(PROCESSES)]
    groups = [clips[number::PROCESSES] for number in range(PROCESSES)]
    links = []
    for number, group in enumerate(groups):  # a file may be given once, and sources have names
        links.append([work / f"live{number}.{place}.mp4" for place in range(len(group))])
        for link, clip in zip(links[-1], group, strict=True):
            link.unlink(missing_ok=True)
            link.symlink_to(clip.resolve())
    runs = [
        start(group, "--realtime", "--provider", provider, "--csv", str(rows))
        for group, rows in zip(links, tables, strict=True)
    ]
    results = finish(runs)
    took, after = time.perf_counter() - begun, os.times()
    faces, batches = (now - then for now, then in zip(server.batches(model), before, strict=True))
    made = sum(len(rows.read_text().splitlines()) - 1 for rows in tables)
    due = count * PER_SECOND * SECONDS
    dropped = sum(sum(dict(result["frames_dropped"]).values()) for result in results)
    return (
        str(count),
        f"{made / due:.0%}",
        f"{dropped / (count * SECONDS * RATE):.0%}",
        f"{faces / batches:.1f}",
        f"{(after.children_user + after.children_system - used.children_user - used.children_system) / took:.2f}",
        f"{(processor_time(server.pid) - spent) / took:.2f}",
    )


if __name__ == "__main__":
    main()
