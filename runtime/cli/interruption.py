"""Ctrl-C while results are being finished: the first one waits, a second one breaks off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@dataclass
class Interruption:
    """happened: whether there was one that had to wait."""

    happened: bool = False

    def wait(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        """Call a signal's own handler; if that interrupts, do so only the second time."""
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            if self.happened:
                raise
            self.happened = True


@contextmanager
def hold_back_interruption() -> Iterator[Interruption]:
    """Let the block end despite one SIGINT or SIGTERM that would raise KeyboardInterrupt; another one raises it.

    Outside the main thread, which alone gets signals, nothing changes.
    """
    first = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield first
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number, handler in own.items():
            signal.signal(number, partial(first.wait, handler))
        yield first
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)
