"""Shared parts of the speed benchmarks: turns, a description of the machine, checks, and the page they write."""

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
    """A requirement. words: what is required. found: the figure. passed: whether it is met."""

    words: str
    found: str
    passed: bool


def take_turns(works: Mapping[str, Callable[[], object]], seconds: float, runs: Mapping[str, int]) -> dict[str, float]:
    """Return the median milliseconds of each work. They take turns until `seconds` are over, each at least three times,
    so that other load on the machine affects all alike.

    runs: runs per turn by work, 1 by default; the first of several warms up and is not counted.
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
    """Return a Markdown table with all but the first column right-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(page: str, title: str, parts: Sequence[str], checks: Sequence[Check], write: bool) -> None:
    """Print the page, write it beside the scripts if `write`, and exit with 1 if a check failed."""
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
