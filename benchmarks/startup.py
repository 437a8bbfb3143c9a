"""Start-up time of the runtime: importing it, and `dfer-run --help`. Medians over fresh processes.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

RUNS = 15


def median_seconds(command: list[str]) -> float:
    """Return the command's median wall-clock time in seconds, after one run that fills the file cache."""
    times = []
    for _ in range(RUNS + 1):
        start = perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    bare = median_seconds([sys.executable, "-c", "pass"])
    imported = median_seconds([sys.executable, "-c", "import dfer.runtime"])
    helped = median_seconds([str(Path(sys.executable).with_name("dfer-run")), "--help"])
    print(f"python -c pass                  {bare:.3f} s")
    print(f"python -c 'import dfer.runtime' {imported:.3f} s ({imported - bare:.3f} s of it ours; limit 0.3)")
    print(f"dfer-run --help                 {helped:.3f} s (limit 0.5)")


if __name__ == "__main__":
    main()
