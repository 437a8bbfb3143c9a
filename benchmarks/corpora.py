"""Cost of labelling a corpus relative to a plain loop, and whether a long video in parts gives the same rows.

    python benchmarks/corpora.py WORK [--clips 24] [--rounds 3] [--write]

Each round labels clips (14 s of the demo at 640×360, with the demo model, one process of one thread) in turns: by a
plain loop over `Recognizer.stream`, by dfer-label with one worker, and, if ray is installed, by dfer-label on a
running Ray cluster of one slot. It labels a quarter of the clips and all of them, to separate start-up from labelling.
Before that, ten minutes of video are labelled in four parts. --write writes corpora.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import av
from pages import Check, publish, table
from pyarrow import parquet

from dfer.runtime.bundle import DEMO
from dfer.runtime.cli.corpus.label import LabelOptions, label
from dfer.runtime.cli.corpus.settings import LabelSettings
from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.recognizer import Recognizer

COST, DIFFERING = 1.05, 0.01  # limits: relative to the plain loop's time; share of rows
NODES, VIDEOS, MINUTES = 1000, 10_000_000, 5  # for the projection
HOST = "127.0.0.2"
LOOP = """
import sys
from dfer.runtime.recognizer import Recognizer
with Recognizer(provider="cpu", threads=1) as recognizer:
    for clip in sys.argv[1:]:
        list(recognizer.stream(clip))
"""


def timed(command: list[object]) -> float:
    begun = perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return perf_counter() - begun


def labelling(clips: Path, work: Path, options: list[object]) -> list[object]:
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    program = "from dfer.runtime.cli.label import main; main()"
    return [sys.executable, "-c", program, clips, out, "--provider", "cpu", *options]


def make_clips(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "00000.mp4"
    if not first.exists():
        film_demo(first)
    made = [first, *(folder / f"{number:05}.mp4" for number in range(1, count))]
    for path in made[1:]:
        if not path.exists():
            shutil.copy(first, path)
    return made


def make_film(clip: Path, path: Path, seconds: float) -> None:
    """Repeat the clip's frames, re-encoded with a key frame every two seconds."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=24, options={"g": "48", "bf": "2", "qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        frames = 0
        while frames < seconds * 24:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    film.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), "rgb24")))
                    frames += 1
        film.mux(stream.encode())


def compare_parts(film: Path, work: Path, length: float) -> tuple[int, int, int]:
    """Return the number of rows of the whole, of rows missing or extra in its parts, and of labels that differ."""
    out = work / "parts"
    shutil.rmtree(out, ignore_errors=True)
    label(LabelOptions([film], out, LabelSettings(str(DEMO), provider="cpu"), workers=2, longest=length))
    rows = [row for file in sorted((out / "predictions").iterdir()) for row in parquet.read_table(file).to_pylist()]
    with Recognizer(provider="cpu", threads=1) as recognizer:
        whole = list(recognizer.stream(film))
    unlike = Counter(one.frame for one in whole)
    unlike.subtract(row["frame"] for row in rows)
    in_frame: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        in_frame.setdefault(row["frame"], []).append(row)
    differing = 0
    for one in whole:  # compared with the row whose box is nearest
        near = min(in_frame[one.frame], key=lambda row: abs(row["x"] - one.box[0]) + abs(row["y"] - one.box[1]))
        differing += near["label"] != one.label
    return len(whole), sum(map(abs, unlike.values())), differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = options.work / "clips"
    clips = make_clips(folder, options.clips)
    film = options.work / "film.mp4"
    if not film.exists():
        make_film(clips[0], film, 600)
    rows, unlike, differing = compare_parts(film, options.work, 150)
    few = make_clips(options.work / "few", options.clips // 4)
    ways: dict[str, list[object] | None] = {"plain loop": None, "dfer-label, one worker": ["--workers", 1]}
    cluster = None
    if importlib.util.find_spec("ray") is not None:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": HOST})
        ways["dfer-label, Ray"] = ["--cluster", cluster.address]
    each: dict[str, list[float]] = {name: [] for name in ways}
    start: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            short, long = (
                timed([sys.executable, "-c", LOOP, *made] if way is None else labelling(place, options.work, way))
                for place, made in ((options.work / "few", few), (folder, clips))
            )
            each[name].append((long - short) / (len(clips) - len(few)))
            start[name].append(short - each[name][-1] * len(few))
    if cluster is not None:
        cluster.shutdown()
    base = median(each["plain loop"])
    ratios = {name: median(spent) / base for name, spent in each.items()}
    checks = [
        *(
            Check(f"{name}: ≤ {COST} of the plain loop's time for a clip", f"{ratios[name]:.3f}", ratios[name] <= COST)
            for name in ways
            if name != "plain loop"
        ),
        Check("ten minutes in four: no row missing or extra", str(unlike), unlike == 0),
        Check(f"labels that differ: ≤ {DIFFERING:.0%}", f"{differing} of {rows}", differing <= DIFFERING * rows),
    ]
    speed = 14 / base
    hours = VIDEOS * MINUTES * 60 / speed / NODES / 3600
    text = [
        f"Clips of 14 s: seconds for each further clip, from runs over {len(few)} and {len(clips)} of them, and "
        f"seconds to start. Medians of {options.rounds} rounds in turns:",
        table(
            ("", "s for a clip", "of the plain loop", "s to start"),
            [
                [name, f"{median(spent):.2f}", f"{ratios[name]:.3f}", f"{median(start[name]):.1f}"]
                for name, spent in each.items()
            ],
        ),
        f"One core processes {speed:.0f} s of video per second. This was calculated, not run: {VIDEOS:,} videos of "
        f"{MINUTES} minutes on {NODES:,} nodes with one such core each would take {hours:.0f} hours, if the storage "
        "serves each node as fast as a local disk and no node is slower than this one.",
    ]
    publish("corpora.md", "What labelling a corpus costs", text, checks, options.write)


if __name__ == "__main__":
    main()
