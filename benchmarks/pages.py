"""What the benchmarks of speed share: turns, the machine in a sentence, checks, and the page they write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from dfer.runtime.machine import describe_machine, versions

HERE = Path(__file__).parent

_NAMED = ("python", "onnxruntime", "onnxruntime-ep-openvino")


@dataclass(frozen=True)
class Check:
    """What must be so. passed: whether it was."""

    words: str
    found: str
    passed: bool


def take_turns(works: Mapping[str, Callable[[], object]], seconds: float, runs: Mapping[str, int]) -> dict[str, float]:
    """Median milliseconds of each work. They take turns until `seconds` are over, each at least three times, so that
    whatever else the machine does hits all alike.

    runs: of a work in its turn, 1 where it is absent; the first of several warms up and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    begun = perf_counter()
    while min(map(len, times.values())) < 3 or perf_counter() - begun < seconds:
        for name, work in works.items():
            for run in range(runs.get(name, 1)):
                start = perf_counter()
                work()
                if run or runs.get(name, 1) == 1:
                    times[name].append(1000 * (perf_counter() - start))
    return {name: median(taken) for name, taken in times.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(page: str, title: str, parts: Sequence[str], checks: Sequence[Check], write: bool) -> None:
    """Print the page, write it beside the scripts if asked to, and exit with 1 when a check failed."""
    machine, found = describe_machine(), versions()
    named = ", ".join(f"{name} {found[name]}" for name in _NAMED if name in found)
    where = f"{machine.cpu} ({', '.join(machine.instructions)}), {machine.cores} cores; {named}."
    load = f"Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    verdicts = [[check.words, check.found, "yes" if check.passed else "**no**"] for check in checks]
    judged = [table(("must be", "found", ""), verdicts)] if checks else []
    text = "\n\n".join([f"# {title}", where, *parts, *judged, load]) + "\n"
    print(text)
    if write:
        (HERE / page).write_text(text, encoding="utf-8")
    sys.exit(not all(check.passed for check in checks))
