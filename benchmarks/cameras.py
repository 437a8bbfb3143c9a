"""How many cameras can one machine process? Each plays the demo clip as if live.

    python benchmarks/cameras.py [1 2 4 8 16] [--bundle MODEL.dfer] [--provider cpu]

640×360, 24 frames per second, one or two faces. Prints a line for each number of cameras: dropped frames; samples of
faces skipped for lack of time; age of predictions since a frame's arrival; CPU load.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic, process_time

import numpy as np

from dfer.runtime import Recognizer, open_source
from dfer.runtime.procedural.demo import film_demo
from dfer.runtime.sources import RotatedSource, SourceReaders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cameras", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--provider", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Recognizer(options.bundle, provider=options.provider) as recognizer:
        clip = Path(scratch) / "demo.mp4"
        film_demo(clip)
        print(f"{recognizer.precision} on {recognizer.provider}; {recognizer.fps:g} samples per second")
        print("cameras  frames/s  not taken  left out  predictions/s  age, ms: median, 99 %  processor")
        for count in options.cameras:
            recognizer.scheduler.encoded = recognizer.scheduler.skipped = 0
            # decode to RGB when a frame is taken, as with a camera
            cameras = [RotatedSource(open_source(clip), lambda frame: frame.image) for _ in range(count)]
            ages: list[float] = []
            begun, used = monotonic(), process_time()
            with SourceReaders(cameras, realtime=True) as readers, closing(recognizer.follow(readers)) as steps:
                for step in steps:
                    ages += [monotonic() - step.frame.arrived] * len(step.predictions)
            seconds, used = monotonic() - begun, process_time() - used
            taken, dropped = (sum(getattr(one, name) for one in readers.readers) for name in ("taken", "dropped"))
            median, late = (1000 * float(np.percentile(ages, share)) for share in (50, 99))
            print(
                f"{count:7}{taken / seconds:10.0f}{dropped / (taken + dropped):11.1%}"
                f"{recognizer.scheduler.skipped_share:10.1%}{len(ages) / seconds:15.0f}{median:14.0f}, {late:<7.0f}"
                f"{used / seconds:9.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
