"""A recorded video as a source."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from ..errors import DferError
from .captures import Capture, Picture
from .frames import Frame, Source, Warn

_WHOLE = 0.95
"""Share of the announced frames that is no truncation: containers often count a few that are never shown."""
_MOST_DAMAGED = 10_000
"""Failed reads in a row after which a file has ended, whatever it announced; each takes microseconds."""


class VideoFile(Source):
    """Every frame of a recorded video, with its presentation time. Damaged frames are left out, with one warning.

    Raises DferError when not even one frame can be decoded.
    """

    def __init__(self, capture: Capture, name: str, warn: Warn) -> None:
        self.name, self.rate, self.count = name, capture.rate, capture.count
        self.warn = warn
        self._capture = capture
        self._handed = 0
        self._closed = False
        # Decoding the first frame now tells a broken file before any output is made.
        self._first = self._read()
        if self._first is None:
            self.close()
            raise DferError(f"{name}: no frame of this video can be decoded")

    def _read(self) -> Picture | None:
        left = (self.count or 0) - self._handed - self._capture.damaged
        return self._capture.read(tries=min(max(left, 0), _MOST_DAMAGED) + 1)

    def __iter__(self) -> Iterator[Frame]:
        start, time, stamp, step = 0.0, -1.0, 0.0, 1 / (self.rate or 25.0)
        current, self._first = self._first, None
        while current is not None:
            if self._handed == 0:
                start = current.stamp
            stamp = current.stamp - start
            # Missing or backward time stamps: carry on at the nominal rate, so that times always rise.
            time = stamp if stamp > time else time + step
            yield Frame(current.image, self._handed, time, current.wait + current.decode, monotonic())
            self._handed += 1
            current = self._read()
        if not self._closed:
            self._tell_what_is_missing(stamp + step)

    def _tell_what_is_missing(self, end: float) -> None:
        """Warn once. A file that goes on to the end it announced has holes; one that does not was cut."""
        damaged, count, handed = self._capture.damaged, self.count or 0, self._handed
        if handed + damaged < _WHOLE * count:
            if end < _WHOLE * count / (self.rate or 25.0):
                self.warn(f"{self.name}: ends after {handed} of {count} announced frames (truncated or damaged?)")
                return
            damaged = count - handed
        if damaged:
            self.warn(f"{self.name}: {damaged} frames are damaged and left out, {handed} are good")

    def close(self) -> None:
        self._closed = True
        self._capture.release()
