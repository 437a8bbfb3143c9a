"""Streams and faces per machine: how cost grows with the number of sources, and of faces in each.

    python benchmarks/scaling.py WORK [--bundle B] [--sources 1,2,4] [--faces 1,2,4,8] [--rounds 3] [--write]

Clips of 640×360 with procedural faces are written to WORK. Every combination reads the same total number of frames;
combinations take turns, and the table has medians. --write writes scaling.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from pages import Check, publish, table

from dfer.runtime.outputs.video import VideoSink
from dfer.runtime.procedural import Identity, draw_background, draw_face
from dfer.runtime.procedural.expressions import ExpressionCurve
from dfer.runtime.profiling.profiler import Recording
from dfer.runtime.recognizer import Recognizer
from dfer.runtime.sources import open_sources

WIDTH, HEIGHT, RATE = 640, 360, 24
FRAMES = 192  # per run, over all sources
THROUGHPUT, STARVING = 0.9, 1.2  # limits: rate of four sources relative to one; most to least progress


def compose(folder: Path, faces: int, number: int, frames: int, rate: int = RATE) -> Path:
    """Write a clip of procedural faces in a grid; `number` distinguishes clips with the same number of faces."""
    path = folder / f"faces{faces}.{number}.{frames}.{rate}.mp4"
    if path.exists():
        return path
    rng = np.random.default_rng([faces, number])
    people = [Identity.sample(rng) for _ in range(faces)]
    curves = [ExpressionCurve.sample("happiness", frames / rate, rng) for _ in people]
    columns = min(faces, 4)
    rows = -(-faces // columns)
    size = min(0.75 * HEIGHT / rows, 0.7 * WIDTH / columns)
    room = draw_background(people[0], HEIGHT, WIDTH)
    with VideoSink(path, rate, (WIDTH, HEIGHT)) as video:
        for index in range(frames):
            frame = room.copy()
            for place, (person, curve) in enumerate(zip(people, curves, strict=True)):
                row, column = divmod(place, columns)
                center = (column + 0.5) * WIDTH / columns, (row + 0.5) * HEIGHT / rows
                draw_face(frame, person, *curve.at(index / rate), center, size)
            video.write(frame, index / rate)
    return path


def read(recognizer: Recognizer, clips: list[Path]) -> tuple[float, Counter[str], float, float]:
    """Return seconds, predictions by source, median milliseconds of an encoder call, and the unevenness of progress:
    the largest ratio between two sources' frames done, while all run and have at least a second done."""
    watch = recognizer.stopwatch = Recording()
    watch.settle()
    predictions: Counter[str] = Counter()
    progress: Counter[str] = Counter()
    uneven = 1.0
    begun = perf_counter()
    for step in recognizer.steps(*open_sources(clips)):
        progress[step.source] += 1
        predictions[step.source] += len(step.predictions)
        if len(progress) == len(clips):
            least, most = min(progress.values()), max(progress.values())
            if least >= RATE and most < FRAMES // len(clips):
                uneven = max(uneven, most / least)
    seconds = perf_counter() - begun
    return seconds, predictions, median(watch.steady.get("encode", [0.0])), uneven


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--sources", default="1,2,4")
    parser.add_argument("--faces", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sources, faces = ([int(part) for part in text.split(",")] for text in (options.sources, options.faces))
    combinations = list(product(sources, faces))
    clips = {
        (count, most): [compose(options.work, most, number, FRAMES // count) for number in range(count)]
        for count, most in combinations
    }
    found: dict[tuple[int, int], list[tuple[float, Counter[str], float, float]]] = {key: [] for key in combinations}
    with Recognizer(options.bundle, provider=options.provider) as recognizer:
        for _ in range(options.rounds):
            for key in combinations:
                found[key].append(read(recognizer, clips[key]))
        model = f"{recognizer.bundle.path.name}, {recognizer.provider}, {recognizer.precision}"
    rows, rates = [], {}
    for (count, most), runs in found.items():
        seconds = median(run[0] for run in runs)
        rates[count, most] = FRAMES / seconds
        read_faces = median(run[1].total() for run in runs)
        rows.append(
            [
                str(count),
                str(most),
                f"{FRAMES / seconds:.0f}",
                f"{read_faces / seconds:.0f}",
                f"{1000 * seconds / FRAMES:.1f}",
                f"{median(run[2] for run in runs):.1f}",
                f"{FRAMES / seconds / RATE:.1f}",
            ]
        )
    checks = []
    for most in faces:
        if (1, most) in rates and (4, most) in rates:
            share = rates[4, most] / rates[1, most]
            checks.append(
                Check(f"four sources, {most} faces: {THROUGHPUT} of one's rate", f"{share:.2f}", share >= THROUGHPUT)
            )
    for (count, most), runs in found.items():
        if count > 1:
            worst = max(run[3] for run in runs)
            words = f"{count} sources, {most} faces: progress within {STARVING}"
            checks.append(Check(words, f"{worst:.2f}", worst <= STARVING))
    head = ("sources", "faces in each", "frames/s", "predictions/s", "ms/frame", "ms/encoder call", "× real time")
    publish(
        "scaling.md",
        "Streams and faces per machine",
        [
            "    python benchmarks/scaling.py WORK --write",
            f"{model}; 640×360 at 24 frames per second, 8 sampled per second; {FRAMES} frames in all per run, from "
            "decoding to prediction, back to back; medians of runs taken in turns. The last column is the number of "
            "seconds of video, summed over the sources, that this machine processes per second.",
            table(head, rows),
        ],
        checks,
        options.write,
    )


if __name__ == "__main__":
    main()
