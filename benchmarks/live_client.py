"""A client of `inference_server.py`: plays clips as live streams, like `dfer-run --realtime`, and prints the results.

    python benchmarks/live_client.py PROVIDER SECONDS CLIP...

Prints "ready" when the model is loaded, waits for a line on standard input, so that all clients start together, and
ends with a line of JSON. ages: seconds from a frame's arrival to each prediction. dropped: frames that were not
taken in time. skipped: share of the samples of faces in view that were skipped. seconds: CPU time without start-up.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from time import monotonic, process_time

from dfer.runtime import Recognizer
from dfer.runtime.sources import SourceReaders, open_sources


def main() -> None:
    provider, seconds, *clips = sys.argv[1:]
    with Recognizer(provider=provider, warn=lambda line: print(line, file=sys.stderr)) as recognizer:
        print("ready", flush=True)
        sys.stdin.readline()
        end, used = monotonic() + float(seconds), process_time()
        ages: list[float] = []
        with (
            SourceReaders(open_sources(clips), realtime=True) as readers,
            closing(recognizer.follow(readers)) as steps,
        ):
            for step in steps:
                ages += [monotonic() - step.frame.arrived] * len(step.predictions)
                if monotonic() > end:
                    break
        found = {
            "ages": ages,
            "taken": sum(reader.taken for reader in readers.readers),
            "dropped": sum(reader.dropped for reader in readers.readers),
            "skipped": recognizer.scheduler.skipped_share,
            "seconds": process_time() - used,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
