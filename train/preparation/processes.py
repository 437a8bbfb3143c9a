"""Run work in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from ...runtime.errors import ParameterError
from ...runtime.machine import follow_parent

T = TypeVar("T")
R = TypeVar("R")


def run_in_processes(work: Callable[[T], R], items: Sequence[T], workers: int, chunk: int | None = None) -> Iterator[R]:
    """Yield `work(item)` for each item, computed by `workers` processes, or in this one if one is enough.

    chunk: items per task, with results in order; None: one item per task, with results as they finish.
    Raises ParameterError if a process dies.
    """
    processes = min(workers, -(-len(items) // (chunk or 1)))
    if processes <= 1:
        yield from map(work, items)
        return
    # Not fork: the parent may already run torch's or OpenCV's threads.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start)
    try:
        if chunk is None:
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
        else:
            yield from pool.map(work, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise ParameterError("workers", "one died, perhaps of too little memory; run again with fewer") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    import cv2

    follow_parent()
    cv2.setNumThreads(1)
