"""Cameras and network streams: the newest frame, with reconnection when the connection is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic

from ..errors import DferError
from ..timing import call_within
from .captures import Capture, Picture
from .frames import Frame, Source, Warn
from .readers import SourceReaders

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before the first attempt to reconnect, and at most; each pause is twice the one before."""
_FIRST_PICTURE = 15.0
"""Seconds within which an opened camera or stream must deliver its first frame."""
_STUMBLES = 10
"""Consecutive failed reads after which the connection counts as lost; fewer may be damaged frames."""


def pauses(tries: int) -> Iterator[float]:
    """Return the seconds to wait before each of so many connection attempts."""
    return (min(FIRST_PAUSE * 2.0 ** min(number, 60), LONGEST_PAUSE) for number in range(tries))


class LiveSource(Source):
    """A camera or stream. Iterating returns the newest frame each time, so nothing ever lags.

    capture: the open connection. connect: opens it again; returns None on failure.
    tries: attempts in a row to reconnect after the connection was lost, with growing pauses; 0 for none.
    Times count from the first frame, through every reconnection.
    Raises DferError when there is no first frame; iterating raises it when reconnecting has failed.
    """

    live = True

    def __init__(
        self, capture: Capture, connect: Callable[[], Capture | None], name: str, warn: Warn, tries: int = 0
    ) -> None:
        self.name, self.rate, self.count = name, capture.rate, None
        self.warn = warn
        self._capture, self._connect, self._tries = capture, connect, tries
        self._closing = threading.Event()
        self._index, self._start, self._time = 0, 0.0, -1.0
        first = None
        try:
            first = call_within(_FIRST_PICTURE, lambda: capture.read(_STUMBLES), "opening")
        except TimeoutError:
            pass
        finally:
            if first is None:
                self.close()
        if first is None:
            raise DferError(f"{name} opens but gives no picture; is it in use elsewhere, is the stream up?")
        self._first: Frame | None = self._stamp(first)

    def __iter__(self) -> Iterator[Frame]:
        with SourceReaders([self]) as readers:
            for batch in readers.batches():
                for _, frame in batch:
                    yield frame

    def frames(self) -> Iterator[Frame]:
        """Iterate over every frame that arrives, waiting and reconnecting in the calling thread."""
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        while (picture := self._capture.read(_STUMBLES) or self._reconnect()) is not None:
            yield self._stamp(picture)

    def _stamp(self, picture: Picture) -> Frame:
        now = monotonic()
        if self._index == 0:
            self._start = now
        # Frames may arrive in bursts faster than a coarse clock ticks.
        self._time = max(now - self._start, self._time + 1e-6)
        frame = Frame(picture.image, self._index, self._time, picture.decode, now)
        self._index += 1
        return frame

    def _reconnect(self) -> Picture | None:
        """Return the first picture of a new connection; None after `close`, or if no attempts are allowed."""
        self._capture.release()
        if self._closing.is_set():
            return None
        if self._tries == 0:
            self.warn(f"{self.name}: gives no more pictures")
            return None
        self.reconnecting = True
        self.warn(f"{self.name}: lost; reconnecting")
        lost = monotonic()
        for pause in pauses(self._tries):
            if self._closing.wait(pause):
                return None
            capture = self._connect()
            if capture is None:
                continue
            self._capture = capture
            if self._closing.is_set():  # close() may have released the capture before this one
                capture.release()
                return None
            if picture := capture.read(_STUMBLES):
                self.reconnecting = False
                self.warn(f"{self.name}: back after {monotonic() - lost:.1f} s")
                return picture
            capture.release()
        if self._closing.is_set():
            return None
        raise DferError(f"{self.name}: lost, and not back after {self._tries} tries to reconnect")

    def close(self) -> None:
        self._closing.set()
        self._capture.release()
