"""Cost of everything but encoder and head, and the frame rate of the demo model.

    python benchmarks/overhead.py WORK [--rounds 3] [--write]

The demo clip (640×360, 24 frames per second, one or two faces) is read by a ViT-B/32 in INT8 that encodes one face in
every frame, frame by frame as from a camera, and in batches of frames as `dfer-run` reads files; and by the demo model
as in `dfer-run`, without and with CSV and annotated video. Models take turns.
--write writes overhead.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

from pages import Check, publish, table
from vit import vit_bundle

from dfer.runtime.engines import LARGEST_BATCH
from dfer.runtime.outputs.writer import OutputPaths, Sinks, file_sinks
from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.profiling.profiler import Recording
from dfer.runtime.recognizer import Recognizer
from dfer.runtime.sources import RotatedSource, SourceReaders, open_source

OUTSIDE, SHARE, RATE = 6.0, 0.10, 150.0  # limits: ms per frame; share of the encoder's time; frames per second


@dataclass
class Found:
    """outside: ms of each frame in which neither encoder nor head nor outputs ran; for a batch, at its first frame.
    encode: ms of each run. rates: frames/s of each round, outputs included."""

    outside: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def read(recognizer: Recognizer, clip: Path, paths: OutputPaths, at_once: int, found: Found) -> None:
    """Read the clip once."""
    watch = recognizer.stopwatch = Recording()
    source = open_source(clip)
    if at_once == 1:  # decode to RGB when a frame is taken, as with a camera
        source = RotatedSource(source, lambda frame: frame.image)
    watch.settle()
    networks = [watch.steady.setdefault(stage, []) for stage in ("encode", "head")]
    frames, begun = 0, perf_counter()
    with (
        source,
        SourceReaders([source]) as readers,
        Sinks(file_sinks(paths, recognizer.classes, {source.name: source.rate}, watch)) as outputs,
    ):
        steps = recognizer.follow(readers, at_once=at_once)
        while True:
            before, start = sum(map(sum, networks)), perf_counter()
            step = next(steps, None)
            if step is None:
                break
            spent = 1000 * (perf_counter() - start)
            found.outside.append(spent - (sum(map(sum, networks)) - before))
            outputs.write(step)
            frames += 1
    found.rates.append(frames / (perf_counter() - begun))
    found.encode.extend(networks[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--clip", default="ViT-B-32", help="a ViT of open_clip; others are no figures for the page")
    parser.add_argument("--size", type=int, default=224, help="pixels of its images; likewise")
    parser.add_argument("--patches", type=int, help="how many of its patches it reads; likewise")
    options = parser.parse_args()
    bundle = vit_bundle(options.work, options.clip, size=options.size, patches=options.patches)
    clip = options.work / "demo.mp4"
    if not clip.exists():
        film_demo(clip)
    every = OutputPaths(csv=options.work / "overhead.csv", video=options.work / "overhead.mp4")
    vit_name = f"{options.clip}, int8, frame by frame"
    vit_model = Recognizer(bundle, provider="cpu", precision="int8", fps=24, max_faces=1)
    rounds = {
        vit_name: (vit_model, OutputPaths(), 1, Found()),
        f"{options.clip}, int8": (vit_model, OutputPaths(), LARGEST_BATCH, Found()),
        "demo model": (Recognizer(provider="cpu"), OutputPaths(), LARGEST_BATCH, Found()),
        "demo model, with CSV and annotated video": (Recognizer(provider="cpu"), every, LARGEST_BATCH, Found()),
    }
    for _ in range(options.rounds):
        for recognizer, paths, at_once, found in rounds.values():
            read(recognizer, clip, paths, at_once, found)
    rows = []
    for name, (_, _, _, found) in rounds.items():
        frames = len(found.outside)
        figures = sum(found.outside) / frames, sum(found.encode) / frames
        share = sum(found.outside) / sum(found.encode)
        rows.append([name, *(f"{figure:.1f}" for figure in figures), f"{share:.0%}", f"{median(found.rates):.0f}"])
    vit, of_files, _, demo = (found for *_, found in rounds.values())
    outside, rate = median(vit.outside), median(demo.rates)
    share, share_of_files = (sum(found.outside) / sum(found.encode) for found in (vit, of_files))
    publish(
        "overhead.md",
        "What is not encoder and head",
        [
            "    python benchmarks/overhead.py WORK --write",
            "Outside: decoding, detection, tracking, alignment, bookkeeping, per frame of 640×360. The ViT encodes one "
            "face of every frame, the demo model all faces of every third. Frames per second are for the whole file, "
            f'back to back. "Frame by frame" is as from a camera; otherwise {LARGEST_BATCH} faces are encoded at '
            "once, as from a file. Faces are tracked and cut out of the next frames while the encoder runs; outside is "
            "the time in which it does not. ONNX Runtime's CPU provider; models measured in turns; means.",
            table(("", "outside, ms per frame", "encoder, ms per frame", "outside / encoder", "frames/s"), rows),
        ],
        [
            Check(f"outside encoder and head: at most {OUTSIDE:g} ms", f"{outside:.1f} ms", outside <= OUTSIDE),
            Check(
                f"of files, on average: at most {SHARE:.0%} of the encoder's",
                f"{share_of_files:.1%}",
                share_of_files <= SHARE,
            ),
            Check(f"frame by frame, on average: at most {SHARE:.0%} of it", f"{share:.1%}", share <= SHARE),
            Check(f"demo model, all stages: at least {RATE:g} frames/s", f"{rate:.0f}", rate >= RATE),
        ],
        options.write,
    )


if __name__ == "__main__":
    main()
