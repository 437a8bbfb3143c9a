"""Durations per stage: exact counts, means and maxima, percentiles to 1 %, in constant memory. Also time limits."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic, perf_counter
from typing import TypeVar

R = TypeVar("R")

STAGES = ("decode", "detect", "track", "align", "encode", "head", "draw", "write", "total")
"""In the order in which a frame passes them. "total" is not a stage: it runs from the arrival of a frame with
predictions until its outputs are written, waits included."""

SHORT_WAIT = 0.2
"""Seconds. On Windows, Python handles Ctrl-C only between waits, so no single wait may be longer."""
_FLOOR = 1e-6  # seconds; shorter durations count as this in percentiles
_GROWTH = 1.01  # width of a histogram bin
_BINS = math.ceil(math.log(1e4 / _FLOOR) / math.log(_GROWTH))


@dataclass(frozen=True)
class StageTimes:
    """Durations of one stage in milliseconds."""

    stage: str
    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Stopwatch:
    """Collects durations per stage; each stage must be measured by one thread."""

    def __init__(self) -> None:
        self._bins = {stage: [0] * _BINS for stage in STAGES}
        self._sum = dict.fromkeys(STAGES, 0.0)
        self._max = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure the body as one run of `stage`; a body that raises is not counted."""
        start = perf_counter()
        yield
        self.add(stage, perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        place = int(math.log(max(seconds, _FLOOR) / _FLOOR) / math.log(_GROWTH))
        self._bins[stage][min(place, _BINS - 1)] += 1
        self._sum[stage] += seconds
        self._max[stage] = max(self._max[stage], seconds)

    def report(self) -> list[StageTimes]:
        """Return the stages that ran, in the order in which a frame passes them."""
        rows = []
        for stage in STAGES:
            n = sum(self._bins[stage])
            if n:
                p50, p90, p95, p99 = (1000 * self._percentile(stage, share, n) for share in (0.5, 0.9, 0.95, 0.99))
                mean, longest = 1000 * self._sum[stage] / n, 1000 * self._max[stage]
                rows.append(StageTimes(stage, n, mean, p50, p90, p95, p99, longest))
        return rows

    def cumulative(self, stage: str, bounds: Sequence[float]) -> tuple[list[int], float]:
        """Return how many runs took at most each of `bounds` (seconds, to 0.5 %), then their number; and their total
        seconds. May be called from another thread than the measuring one: the counts are a consistent snapshot.
        """
        counts, seconds = list(accumulate(self._bins[stage].copy(), initial=0)), self._sum[stage]
        edges = (round(math.log(bound / _FLOOR) / math.log(_GROWTH)) for bound in bounds)
        return [*(counts[edge] for edge in edges), counts[-1]], seconds

    def _percentile(self, stage: str, share: float, n: int) -> float:
        """Return the smallest duration that `share` of the runs do not exceed (nearest rank), at its bin's middle."""
        rank, seen = math.ceil(share * n), 0
        for place, count in enumerate(self._bins[stage]):
            seen += count
            if seen >= rank:
                return min(_FLOOR * math.pow(_GROWTH, place + 0.5), self._max[stage])
        return self._max[stage]


def call_within(
    seconds: float, call: Callable[[], R], name: str | None = None, discard: Callable[[R], object] = lambda _: None
) -> R:
    """Run `call` in its own thread and return or raise its result, so that Ctrl-C can interrupt the wait.

    name: the thread's. discard: called with a result that arrives after the wait has ended.

    Raises TimeoutError when it takes longer. The abandoned call goes on, and ends with the program.
    """
    future: Future[R] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # re-raised in the waiting thread
            future.set_exception(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    end = monotonic() + seconds
    try:
        while thread.is_alive():
            if monotonic() >= end:
                raise TimeoutError(f"took longer than {seconds:g} s")
            thread.join(min(SHORT_WAIT, seconds))
    except BaseException:
        future.add_done_callback(lambda late: late.exception() or discard(late.result()))
        raise
    return future.result()
