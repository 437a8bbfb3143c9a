"""The plan of a corpus run, a list of units: parts of long videos, single videos, groups of short ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DferError
from ...sources import VIDEO_SUFFIXES, expand, files_of, folders_below, open_source
from ...sources.frames import natural_order, readable
from .sections import Cut, Place, find_cuts

LONGEST = 1800.0
"""Most seconds of video in a unit: what a crash loses, and what the last worker is still busy with at the end."""
_GROUP = 60.0
"""Seconds up to which short videos share a unit: few files, but enough work for many workers."""
_MOST = 100  # videos per unit


@dataclass(frozen=True)
class Segment:
    """A video, or a part of it.

    source: its name in the results. path: of the file. number: of the part, from 0.
    seconds: length, 0 if unknown. cut: where the part begins, None for the video's start. end: the first frame after
    the part, None for the video's end.
    """

    source: str
    path: str
    number: int = 0
    seconds: float = 0.0
    cut: Cut | None = None
    end: Place | None = None


@dataclass(frozen=True)
class Unit:
    """The work of one worker at a time. Its results are one file."""

    name: str
    segments: tuple[Segment, ...]

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments)


def find_videos(places: Iterable[str | Path]) -> list[Path]:
    """Return the named videos: files, patterns, and folders with everything below them, in natural order.

    Raises DferError for a place without videos, for a folder that cannot be read, and for "".
    """
    found: list[Path] = []
    for named in places:
        place = Path(named)
        if named != "" and place.is_dir():
            inside = [file for _, files in folders_below(place) for file in files]
            videos = [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()]
            if not videos:
                raise DferError(f"{readable(place)}: no videos in this folder ({', '.join(sorted(VIDEO_SUFFIXES))})")
            found += sorted(videos, key=lambda file: natural_order(str(file)))
        else:
            listed = [Path(str(spec)) for spec in expand([str(named)])]
            if absent := next((file for file in listed if not file.is_file()), None):
                images = files_of(str(named)) != [Path(named)]  # a pattern that matches only these
                why = "matches images, and this command reads videos; dfer-run reads both" if images else "no such file"
                raise DferError(f"{readable(absent)}: {why}")
            found += listed
    return list(dict.fromkeys(found))


def make_plan(
    videos: Sequence[Path], lead: float, progress: Callable[[], object], longest: float = LONGEST
) -> list[Unit]:
    """Return units for videos, in their order; the same for the same files, wherever it is called.

    lead: seconds that are read before a cut. progress: called after each video. longest: seconds of a unit.
    A video that cannot be read becomes a segment all the same; the worker that reads it reports the failure.
    """
    pool = ThreadPoolExecutor()  # opening waits for the disk
    try:
        units: list[list[Segment]] = []
        filled = 0.0
        for segments in pool.map(partial(_segments, lead=lead, longest=longest), videos):
            progress()
            alone = len(segments) > 1 or segments[0].seconds > _GROUP
            for segment in segments:
                if alone or not units or not filled or filled + segment.seconds > _GROUP or len(units[-1]) >= _MOST:
                    units.append([])
                    filled = 0.0
                units[-1].append(segment)
                filled = 0.0 if alone else filled + max(segment.seconds, 1.0)
    finally:
        pool.shutdown(cancel_futures=True)
    return [Unit(f"{number:06}", tuple(segments)) for number, segments in enumerate(units)]


def _segments(video: Path, lead: float, longest: float) -> list[Segment]:
    name, path = readable(video), str(video.absolute())
    try:
        with open_source(video) as source:
            seconds = source.count / source.rate if source.count and source.rate else 0.0
        cuts = find_cuts(video, longest, lead) if seconds > longest else []
    except DferError:
        return [Segment(name, path)]
    begins: list[Cut | None] = [None, *cuts]
    ends = [*(cut.start for cut in cuts), None]
    return [
        Segment(
            name,
            path,
            number,
            (seconds if end is None else end.time) - (0.0 if begin is None else begin.start.time),
            begin,
            end,
        )
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]


def to_json(unit: Unit) -> str:
    """Return a unit as a line of JSON."""
    return json.dumps(asdict(unit))


def from_json(line: str) -> Unit:
    """Return the unit of such a line. Raises KeyError, TypeError or ValueError for any other."""
    entry = json.loads(line)
    return Unit(entry["name"], tuple(_segment(**segment) for segment in entry["segments"]))


def _segment(cut: Any, end: Any, **known: Any) -> Segment:
    begin = None if cut is None else Cut(Place(**cut["lead"]), Place(**cut["start"]), cut["clock"])
    return Segment(**known, cut=begin, end=None if end is None else Place(**end))
