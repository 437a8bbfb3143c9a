"""A part of a long video as a source, with frame indices and times of the whole video."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import monotonic

from ...sources.files import WHOLE
from ...sources.films import Film
from ...sources.frames import Frame, Source, Warn, open_file, readable

_SAME = 1e-4
"""Seconds by which two time stamps of one frame may differ."""


@dataclass(frozen=True)
class Place:
    """A frame of a video: index from 0, and media time in seconds since the first."""

    index: int
    time: float


START = Place(0, 0.0)


@dataclass(frozen=True)
class Cut:
    """Where a video is cut. start: the first frame after the cut. lead: where to start reading, some time before.

    clock: time stamp of the video's first frame, seconds.
    """

    lead: Place
    start: Place
    clock: float


def find_cuts(path: Path, longest: float, lead: float) -> list[Cut]:
    """Return the cuts of a video into parts of `longest` seconds, each read from `lead` seconds before; none if short.

    Packets are read, not decoded, which takes seconds per hour of video. A video whose time stamps do not rise strictly
    is not cut, since they would not identify its frames, nor is one that FFmpeg cannot rewind (AVI, FLV).
    Raises DferError for what is not a video.
    """
    import av

    film = Film(open_file(path), readable(path))
    try:
        if film.length is None or film.length <= 1.1 * longest or film.jumps:
            return []
        first = film.read()
        if first is None or first.stamp is None:
            return []
        clock = first.stamp
        stamps = film.stamps()
    except av.FFmpegError:
        return []
    finally:
        film.release()
    times = sorted(stamp - clock for stamp in stamps if stamp > clock - _SAME)
    rising = all(later - earlier > _SAME for earlier, later in pairwise(times))
    if not rising or not times or abs(times[0]) > _SAME:
        return []
    cuts = []
    moment = longest
    while moment < times[-1] - longest / 10:
        start = bisect_left(times, moment)
        begin = bisect_left(times, times[start] - lead)
        cuts.append(Cut(Place(begin, times[begin]), Place(start, times[start]), clock))
        moment += longest
    return cuts


def is_before(time: float, place: Place) -> bool:
    """Return whether a frame at this time comes before the one at `place`."""
    return time < place.time - _SAME


class VideoSection(Source):
    """The frames of a video from a cut's lead on, or from its start (None), up to `end` or to its end (None).

    Reading starts with a seek, if that is exact: at the lead's time stamp, with as many frames up to the cut's start as
    in the whole video. Otherwise the video is decoded from its start. Damage after the cut's start and an early end are
    reported to `warn`.
    Raises DferError for what is not a video.
    """

    def __init__(
        self, path: Path, name: str, cut: Cut | None, end: Place | None = None, warn: Warn = lambda _: None
    ) -> None:
        self.name, self.count, self.warn = name, None, warn
        self._path, self._end, self._closed = path, end, False
        self._film = Film(open_file(path), readable(path))
        self.rate = self._film.rate
        self._cut = cut or Cut(START, START, self._clock())

    def _clock(self) -> float:
        first = self._film.read()
        return 0.0 if first is None or first.stamp is None else first.stamp

    def __iter__(self) -> Iterator[Frame]:
        lead, start, clock = self._cut.lead, self._cut.start, self._cut.clock
        arrives = lead != START and self._arrives()
        self._film.release()
        self._film = Film(open_file(self._path), readable(self._path))
        if arrives:
            self._film.seek(clock + lead.time)
        index, time, damaged_before = lead.index if arrives else 0, start.time, -1
        for picture in iter(self._film.read, None):
            if picture.stamp is None:
                continue
            time = picture.stamp - clock
            if damaged_before < 0 and not is_before(time, start):
                damaged_before = self._film.damaged
            if self._end is not None and not is_before(time, self._end):
                break
            before = is_before(time, lead)
            if not before:
                yield Frame(picture, index, time, picture.spent, monotonic())
            if not (before and arrives):
                index += 1
        if not self._closed:
            self._tell_what_is_missing(index, time, self._film.damaged - max(damaged_before, 0))

    def _tell_what_is_missing(self, index: int, time: float, damaged: int) -> None:
        """Warn once. index: of the next frame. time: of the last one read."""
        film = self._film
        end = time + 1 / (self.rate or 25.0)
        if film.fault:
            self.warn(f"{self.name}: cannot be read beyond {end:.2f} s: {film.fault}")
        elif self._end is None and film.count and film.length is not None and end < WHOLE * film.length:
            self.warn(f"{self.name}: ends after {index} of {film.count} announced frames (truncated or damaged?)")
        elif damaged:
            span = f"{self._cut.start.time:.2f} to {time:.2f} s"
            self.warn(f"{self.name}: {damaged} frames are damaged and left out, from {span}")

    def _arrives(self) -> bool:
        """Return whether a seek to the lead finds it, and all frames from there to the cut."""
        lead, start, clock = self._cut.lead, self._cut.start, self._cut.clock
        self._film.seek(clock + lead.time)
        index, arrived = lead.index, False
        while (picture := self._film.read()) is not None and picture.stamp is not None:
            time = picture.stamp - clock
            if not arrived and time > lead.time + _SAME:
                return False
            if not is_before(time, lead):
                arrived = True
                if not is_before(time, start):
                    return index == start.index and time < start.time + _SAME
                index += 1
        return False

    def close(self) -> None:
        self._closed = True
        self._film.release()
