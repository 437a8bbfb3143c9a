"""One Triton server for many streams: the cost of sharing the encoder, and how many live streams it can serve.

    DFER_TRITON=FOLDER python benchmarks/inference_server.py WORK [--rounds 3] [--live 8x24/8,50x8/4] [--write]

FOLDER holds the server (`.ci/triton FOLDER`). First, four `dfer-run` processes share the server, compared with one
process that runs the encoder itself: the same frames in all, in turns. Then clips are played as live streams:
`--live 50x8/4` are 50 streams of 8 frames a second, read by 4 processes (`live_client.py`). Measured are predictions
relative to those due, their age, the server's batch size in faces, and CPU time per prediction. --write writes
inference_server.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from pages import HERE, Check, publish, table
from scaling import RATE, compose

from dfer.export.model_repository import write_repository
from dfer.runtime.bundle import DEMO, Bundle
from dfer.runtime.engines import open_graph
from dfer.runtime.errors import DferError

sys.path.insert(0, str(HERE.parent / "tests"))
from triton_servers import RealTriton

PROCESSES, SECONDS = 4, 40
SHARE = 0.8  # minimum, relative to the rate of one process
PER_SECOND = 8  # samples per second and face
LIVE = 20  # seconds for which streams are played
CAMERAS = 50  # for the budget on paper


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("work", type=Path)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--live", default="8x24/8,16x24/16,50x24/50,50x8/50,50x8/4", help="STREAMSxFPS/PROCESSES,…")
    arguments.add_argument("--write", action="store_true")
    options = arguments.parse_args()
    options.work.mkdir(exist_ok=True)
    load = os.getloadavg()[0]
    model = write_repository(Bundle.open(DEMO), options.work / "models", "fp32")
    clips = [compose(options.work, 1, number, SECONDS * RATE) for number in range(PROCESSES)]
    with RealTriton(options.work / "models", options.work) as server:
        provider = f"triton://127.0.0.1:{server.port}/{model.name}"
        rates: dict[str, list[tuple[float, float]]] = {"one": [], "four": []}
        for _ in range(options.rounds):
            rates["one"].append(read([[*clips]], "--provider", "cpu", "--precision", "fp32"))
            before = processor_time(server.pid)
            rate, used = read([[clip] for clip in clips], "--provider", provider)
            rates["four"].append((rate, used + processor_time(server.pid) - before))
        played = [play(server, model.name, options.work, case, provider) for case in options.live.split(",")]
        held = "; ".join(hold(server, provider, seconds) for seconds in (0.5, 1.5))
    (one, one_used), (four, four_used) = (tuple(map(median, zip(*runs, strict=True))) for runs in rates.values())
    publish(
        "inference_server.md",
        "One Triton server for many streams",
        [
            "The demo model's encoder in FP32 on a Triton server (tritonserver 2.51, ONNX Runtime on its Python "
            "backend, two instances of one thread). Server, clients and everything else on this machine share its "
            f"cores. The load average was {load:.1f} at the start, so other work on the machine is in the figures.",
            f"Four processes that share the server, each reading one clip of {SECONDS} s (640×360, one face): "
            f"{four:.0f} frames/s together. One process with its own encoder, reading the same four clips: "
            f"{one:.0f} frames/s. They took {four_used:.0f} s of processor time, including the server's, and "
            f"{one_used:.0f} s. Start-up is included. Medians of runs that took turns.",
            "## Live streams",
            f"Clips of 640×360 with one face, played as by `dfer-run --realtime`, for {LIVE} s after all clients had "
            f"started. {PER_SECOND} predictions per second are due for each stream. A frame is dropped when the next "
            "one arrives before it was taken. Skipped samples are faces in view that the scheduler left out for lack "
            "of time. Age: from a frame's arrival to its prediction. Cores: used by clients and server together.",
            table(Played.HEAD, [one.row() for one in played]),
            *budget(played[0]),
            "## Why the server must not starve",
            "Triton's Python backend runs models in worker processes, and the server ends when these stall for too "
            f"long. Both workers were stopped while requests came in: {held}. Too many clients on the server's cores "
            "may stall them as long. ONNX Runtime and TensorRT in NVIDIA's container run inside the server, without "
            "such workers.",
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


def read(groups: list[list[Path]], *options: str) -> tuple[float, float]:
    """Run one `dfer-run` per group of clips, all in parallel; return frames per second and CPU seconds."""
    begun, before = time.perf_counter(), os.times()
    command = [str(Path(sys.executable).with_name("dfer-run")), "--quiet", *options]
    runs = [subprocess.Popen([*command, *map(str, group)], stdout=subprocess.DEVNULL) for group in groups]
    assert not any(run.wait() for run in runs)
    rate, after = sum(map(len, groups)) * SECONDS * RATE / (time.perf_counter() - begun), os.times()
    return rate, sum(after[2:4]) - sum(before[2:4])  # CPU times of child processes


@dataclass(frozen=True)
class Played:
    """Results of live streams. ages: of each prediction, in seconds. client, server: CPU seconds."""

    streams: int
    rate: int
    processes: int
    ages: list[float]
    dropped: float
    skipped: float
    batch: float
    client: float
    server: float

    HEAD = (
        "streams",
        "frames/s of each",
        "processes",
        "predictions/s",
        "of those due",
        "frames dropped",
        "samples skipped",
        "age, p50",
        "p95",
        "faces in a batch",
        "processor per prediction, client",
        "server",
        "cores",
    )

    def row(self) -> tuple[str, ...]:
        made = len(self.ages)
        p50, p95 = np.percentile(self.ages, [50, 95])
        return (
            *(str(self.streams), str(self.rate), str(self.processes), f"{made / LIVE:.0f}"),
            f"{made / (self.streams * PER_SECOND * LIVE):.0%}",
            *(f"{self.dropped:.0%}", f"{self.skipped:.0%}", f"{1000 * p50:.0f} ms", f"{1000 * p95:.0f} ms"),
            f"{self.batch:.1f}",
            *(f"{1000 * seconds / made:.1f} ms" for seconds in (self.client, self.server)),
            f"{(self.client + self.server) / LIVE:.1f}",
        )


def play(server: RealTriton, model: str, work: Path, case: str, provider: str) -> Played:
    streams, rate, processes = map(int, case.replace("/", "x").split("x"))
    links = [work / f"live{number}.mp4" for number in range(streams)]  # each source can be opened only once
    for number, link in enumerate(links):
        link.unlink(missing_ok=True)
        link.symlink_to(compose(work, 1, number % 8, SECONDS * rate, rate).resolve())
    command = [sys.executable, str(HERE / "live_client.py"), provider, str(LIVE)]
    clients = [
        subprocess.Popen(
            [*command, *map(str, links[number::processes])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(processes)
    ]
    for client in clients:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
    before, used = server.batches(model), processor_time(server.pid)
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("\n")
        client.stdin.flush()
    found: list[dict[str, Any]] = [json.loads(client.communicate()[0]) for client in clients]
    faces, batches = (now - then for now, then in zip(server.batches(model), before, strict=True))
    dropped, taken = (sum(one[name] for one in found) for name in ("dropped", "taken"))
    return Played(
        streams,
        rate,
        processes,
        ages=[age for one in found for age in one["ages"]],
        dropped=dropped / (dropped + taken),
        skipped=sum(one["skipped"] * one["taken"] for one in found) / taken,
        batch=faces / batches,
        client=sum(one["seconds"] for one in found),
        server=processor_time(server.pid) - used,
    )


def hold(server: RealTriton, address: str, seconds: float) -> str:
    """Suspend the workers of the Python backend for `seconds` during requests; return what the server did."""
    frames = np.zeros((1, 80, 80, 3), np.uint8)
    workers = [one for one in psutil.Process(server.pid).children(recursive=True) if "stub" in one.name()]
    with open_graph(Bundle.open(DEMO), "encoder.fp32.onnx", address) as engine:

        def ask() -> None:
            with contextlib.suppress(DferError):
                for _ in range(10):
                    engine.run({"frames": frames})

        asking = threading.Thread(target=ask, daemon=True)
        for worker in workers:
            worker.suspend()
        asking.start()
        time.sleep(seconds)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()
        asking.join(3)
    ended = psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
    return f"for {seconds:g} s, {'and the server ended' if ended else 'and it answered afterwards'}"


def processor_time(pid: int) -> float:
    """Return the CPU seconds of a process and its children."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def budget(unhurried: Played) -> list[str]:
    """Return text that estimates the cost of `CAMERAS` cameras from the CPU time of streams on an unloaded machine."""
    per_second = CAMERAS * PER_SECOND
    client, server = (seconds / len(unhurried.ages) * per_second for seconds in (unhurried.client, unhurried.server))
    return [
        f"## {CAMERAS} cameras, on paper",
        "This was calculated, not run: the processor time of a prediction in the table's first row, times "
        f"{per_second} predictions per second.",
        f"- Clients: {client:.1f} cores like these for {CAMERAS} cameras of 640×360 at {unhurried.rate} frames/s, one "
        "face each. They decode, detect and track faces, and run the head, whatever the encoder.\n"
        f"- Server: {server:.1f} cores for the demo model's encoder. A GPU would have {1000 / per_second:.1f} ms per "
        "face.\n"
        f"- Network: {per_second * 224 * 224 * 3 / 1e6:.0f} MB/s for crops of 224×224 pixels, half of a gigabit line; "
        f"{per_second * 80 * 80 * 3 / 1e6:.0f} MB/s for the demo model's.",
    ]


if __name__ == "__main__":
    main()
