"""A recorded video as a source."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from ..errors import DferError
from .films import Film
from .frames import Frame, Source, Warn

WHOLE = 0.95
"""Share of the announced frames that counts as complete: containers often count a few that are never shown."""
_STEADY = 0.9
"""Share of even steps at which a film counts as constant frame rate, so that missing frames mean damage."""
_JUMP = 10.0
"""Seconds between two time stamps of a broadcast that count as a clock jump (FFmpeg's `dts_delta_threshold`)."""
_SET_BACK, _LEAST = 1.0, 1e-3
"""Seconds: a stamp further back belongs to another clock; least increase from frame to frame."""


class VideoFile(Source):
    """Every frame of a recorded video, with its presentation time. Damaged frames are skipped, with one warning.

    Where the clock of a transport stream jumps, a warning is given, times go on by one frame, and the frame is a `cut`.
    Raises DferError when not even one frame can be decoded.
    """

    def __init__(self, film: Film, name: str, warn: Warn) -> None:
        self.name, self.rate, self.count = name, film.rate, film.count
        self.warn = warn
        self._film = film
        self._closed = False
        # Decoding the first frame now detects a broken file before any output is created.
        self._first = film.read()
        if self._first is None:
            self.close()
            by = " by the device of --hwaccel; try without it" if film.accelerated else ""
            if film.piped_mp4:
                by = " from a pipe, as of most MP4s; name the file, or pipe Matroska (ffmpeg -i … -f matroska -)"
            raise DferError(f"{name}: no frame of this video can be decoded{by}")

    def __iter__(self) -> Iterator[Frame]:
        step = 1 / (self.rate or 25.0)
        current, self._first = self._first, None
        handed = steady = 0
        rise = 0.0
        time, last, offset, jumped = 0.0, 0.0, 0.0, False
        while current is not None:
            stamp, cut = current.stamp, False
            if handed == 0:
                offset = last = stamp or 0.0
            else:
                if stamp is not None:
                    cut = self._film.jumps and not -_JUMP < stamp - last < _JUMP
                    rise = stamp - last
                    steady += abs(rise - step) < step / 4
                    last = stamp
                    offset = stamp - time - step if cut else offset
                if stamp is not None and stamp - offset > time:
                    time = stamp - offset
                elif stamp is None or rise < -_SET_BACK:
                    time += step  # at the nominal rate
                else:  # by as little as possible, so that the following stamps are correct again
                    time += rise if rise > 0 else min(step, _LEAST)
            if cut and not jumped:
                self.warn(f"{self.name}: its clock jumps at {time:.2f} s (discontinuity); times go on by one frame")
                jumped = True
            yield Frame(current, handed, time, current.spent, monotonic(), cut=cut)
            handed += 1
            current = self._film.read()
        if not self._closed:
            announced = 0 if jumped else self.count or 0
            self._tell_what_is_missing(handed, announced, time + step, steady < _STEADY * (handed - 1))

    def _tell_what_is_missing(self, handed: int, count: int, end: float, uneven: bool) -> None:
        """Warn once: about missing frames if the film reaches its announced end, else about truncation.

        count: frames announced, 0 if unreliable. uneven: variable frame rate, so too few frames are no proof of damage.
        """
        film = self._film
        damaged = film.damaged
        if film.fault:
            self.warn(f"{self.name}: cannot be read beyond {end:.2f} s: {film.fault}")
            return
        if handed + damaged < WHOLE * count:
            if film.length is not None and end < WHOLE * film.length:
                self.warn(f"{self.name}: ends after {handed} of {count} announced frames (truncated or damaged?)")
                return
            if not uneven:
                damaged = count - handed
        if damaged:
            self.warn(f"{self.name}: {damaged} frames are damaged and left out, {handed} are good")

    def close(self) -> None:
        self._closed = True
        self._film.release()
