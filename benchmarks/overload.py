"""Live overload: eight faces and a ViT-L/14 in FP32. Do predictions stay fresh and memory flat?

    python benchmarks/overload.py [--clip ViT-L-14] [--faces 8] [--seconds 120]

The encoder has random weights (its speed does not depend on them); the procedural clip is played as if live. Age is the
time from a frame's arrival to its prediction. Exits with 1 if the 99th percentile of age is above two sampling
periods and one batch, or memory grew by more than 20 MB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic

import numpy as np
import psutil

from dfer.export.exporting import export_method
from dfer.runtime import Recognizer, open_source
from dfer.runtime.outputs.video import VideoSink
from dfer.runtime.procedural import Identity, draw_background, draw_face
from dfer.runtime.procedural.expressions import ExpressionCurve
from dfer.runtime.sources import SourceReaders
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip

_SIZE, _RATE = (1280, 720), 25.0


def film_crowd(path: Path, people: int, seconds: float) -> None:
    """Write a clip of `people` procedural faces in two rows, each with its own expression curve."""
    rng = np.random.default_rng(5)
    columns = (people + 1) // 2
    cast = [
        (
            Identity.sample(rng),
            ExpressionCurve.sample("happiness", seconds, rng),
            (_SIZE[0] * (i % columns + 0.5) / columns),
        )
        for i in range(people)
    ]
    scene = draw_background(cast[0][0], _SIZE[1], _SIZE[0])
    with VideoSink(path, _RATE, _SIZE) as video:
        for index in range(round(seconds * _RATE)):
            frame = scene.copy()
            for number, (identity, curve, x) in enumerate(cast):
                draw_face(frame, identity, *curve.at(index / _RATE), (x, 180 + 350 * (number // columns)), 180)
            video.write(frame, index / _RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="ViT-L-14", help="a ViT of open_clip")
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as scratch:
        video, bundle = Path(scratch) / "crowd.mp4", Path(scratch) / "model.dfer"
        film_crowd(video, options.faces, options.seconds)
        export_method(AlignDfer(load_clip(options.clip), tokens=4, video_layers=1), bundle, {})
        ages: list[float] = []
        rows: dict[int, int] = {}
        settled = 0.0
        with Recognizer(bundle, provider="cpu") as recognizer, open_source(video) as source:
            begun = monotonic()
            with SourceReaders([source], realtime=True) as readers, closing(recognizer.follow(readers)) as steps:
                for step in steps:
                    if step.predictions:
                        ages.append(monotonic() - step.frame.arrived)
                    for prediction in step.predictions:
                        rows[prediction.track_id] = rows.get(prediction.track_id, 0) + 1
                    if not settled and monotonic() - begun > options.seconds / 4:
                        settled = process.memory_info().rss / 1e6
            grown = process.memory_info().rss / 1e6 - settled
            batch = next(row for row in recognizer.stopwatch.report() if row.stage == "encode").p99 / 1e3
            skipped = recognizer.scheduler.skipped_share
            limit = 2 / recognizer.fps + batch
    p50, p99 = (float(np.percentile(ages, share)) for share in (50, 99))
    print(f"{options.clip}, {options.faces} faces, {options.seconds:g} s: predictions by face {rows}")
    print(
        f"age of predictions: median {p50:.2f} s, 99th percentile {p99:.2f} s (limit {limit:.2f} s); shed {skipped:.1%}"
    )
    print(f"memory grew by {grown:.1f} MB after a quarter of the time")
    sys.exit(p99 > limit or grown > 20)


if __name__ == "__main__":
    main()
