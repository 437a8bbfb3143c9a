"""Prepares the next frames in a separate thread while the encoder runs on the current ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Semaphore
from time import monotonic
from typing import TypeVar

from ..sources import SourceReaders
from ..timing import SHORT_WAIT
from .gathering import Gathered

T = TypeVar("T")


class Pace:
    """Decides when to prepare the next frames: at once or, if they are to be fresh, just in time for the encoder."""

    def __init__(self, fresh: bool) -> None:
        self._fresh = fresh
        self._use = {False: 0.0, True: 0.0}  # running mean of seconds of use, for frames without and with faces
        self._spent = 0.0  # recent maximum of seconds of tracking, with faces: detection runs only in some frames

    def learn(self, gathered: Gathered, seconds: float) -> None:
        """Record how many seconds frames were in use: encoded, classified and written."""
        read = bool(gathered.chosen)
        self._use[read] = (self._use[read] + seconds) / 2 if self._use[read] else seconds
        if read:
            self._spent = max(gathered.spent, 0.9 * self._spent)

    def rest(self, gathered: Gathered) -> float:
        """Return the seconds to wait, once these frames are taken, before preparing the next."""
        return self._use[bool(gathered.chosen)] - 1.5 * self._spent if self._fresh else 0.0


def prefetch(
    items: Iterator[T],
    readers: SourceReaders,
    prepare: Callable[[T], Iterator[object]] = lambda _: iter(()),
    rest: Callable[[T], float] = lambda _: 0.0,
) -> Iterator[T]:
    """Yield the items, made from frames of `readers`, each prepared in a thread while the one before it is used.

    prepare: further work on an item, in steps, done until the item is taken.
    rest: seconds from the start of an item's use to the preparation of the next, unless that is needed sooner.

    The thread ends when no more are taken, or when the readers are closed, which waits for it.
    """
    taken, wanted, made = Semaphore(1), Event(), SimpleQueue[tuple[T | None, BaseException | None]]()
    taking = True

    def make() -> None:
        error: BaseException | None = None
        item: T | None = None
        while error is None:
            while not taken.acquire(timeout=SHORT_WAIT) and not readers.closing:
                pass
            due = monotonic() + (0.0 if item is None else rest(item))
            while (left := due - monotonic()) > 0 and not readers.closing and not wanted.wait(min(left, SHORT_WAIT)):
                pass
            if not taking:
                break
            try:
                item = next(items, None)
                made.put((item, None))
                if item is None:
                    break
                for _ in prepare(item):
                    if made.empty() or not taking or readers.closing:  # taken: the consumer does the rest
                        break
            except BaseException as caught:  # re-raised in the consumer
                error = caught
                made.put((None, error))

    readers.start(make)
    try:
        while True:
            wanted.set()
            item, error = _next_of(made)
            if error is not None:
                raise error
            if item is None:
                return
            wanted.clear()
            taken.release()
            yield item
    finally:
        taking = False
        wanted.set()
        taken.release()


def _next_of(made: SimpleQueue[T]) -> T:
    while True:
        with suppress(Empty):
            return made.get(timeout=SHORT_WAIT)
