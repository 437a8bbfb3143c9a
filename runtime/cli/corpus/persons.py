"""Joins the tracks of a video's parts into persons: tracks are numbered per part, and overlap in the lead-in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...faces.detection import Box, intersection_over_union

_SAME = 0.5  # intersection over union


class Seen(NamedTuple):
    """A face in a frame: its track, and its box in pixels."""

    frame: int
    track: int
    x: float
    y: float
    w: float
    h: float

    @property
    def box(self) -> Box:
        return self.x, self.y, self.w, self.h


class Part(NamedTuple):
    """A part of a video. lead: the faces of its lead-in. tracks: its own, in order of appearance.

    shared: its own faces in the frames of the next part's lead-in.
    """

    lead: Sequence[Seen]
    tracks: Sequence[int]
    shared: Sequence[Seen]


def join_tracks(parts: Iterable[Part]) -> list[tuple[int, int, int]]:
    """Return (part, track, person) for every track of consecutive parts of one video; persons count from 1.

    A track of a lead-in is matched to the track of the part before whose boxes coincide with it in most frames; pairs
    are matched in order of that number, each track once.
    """
    joined: list[tuple[int, int, int]] = []
    before: dict[int, int] = {}  # tracks of the part before, and their persons
    earlier: Sequence[Seen] = ()
    persons = 0
    for number, part in enumerate(parts):
        known: dict[int, int] = {}
        taken: set[int] = set()
        for (track, other), _ in _overlaps(part.lead, earlier).most_common():
            if track not in known and other not in taken:
                known[track] = before[other]
                taken.add(other)
        now: dict[int, int] = {}
        for track in part.tracks:
            if track not in known:
                persons += 1
            now[track] = known.get(track, persons)
            joined.append((number, track, now[track]))
        before, earlier = now, part.shared
    return joined


def _overlaps(lead: Sequence[Seen], earlier: Sequence[Seen]) -> Counter[tuple[int, int]]:
    """Count the frames in which a track of the lead-in and one of the part before were the same face."""
    frames: dict[int, list[Seen]] = {}
    for seen in earlier:
        frames.setdefault(seen.frame, []).append(seen)
    pairs = ((one, other) for one in lead for other in frames.get(one.frame, ()))
    return Counter(
        (one.track, other.track) for one, other in pairs if intersection_over_union(one.box, other.box) >= _SAME
    )
