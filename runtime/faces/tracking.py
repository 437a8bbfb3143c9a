"""Tracking: joins the detections of one source into tracks by motion and appearance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .color_histogram import ColorHistogram, color_histogram, hellinger_distance
from .detection import Box as Box
from .detection import Face, GivenFace, intersection
from .one_euro import LandmarkFilter
from .optical_flow import MedianFlow, SimilarityMotion

_SURE = 0.7  # least score at which a face begins a track
_FARTHEST = 1.5  # largest distance, in face sizes, between expected and detected position
_LIKEST_SIZES = 2.5  # largest ratio of the areas of two boxes of one face
_LIMIT = 2.6  # least cost at which two faces are two people
_APPEARANCE = 4.0  # cost of no colour in common
_LEARNING = 0.1  # weight of a new histogram in the remembered one
_OVERLAP = 0.1  # covered share of the smaller box above which its colours may be another face's
_GLIDE = 0.5  # seconds in which the velocity of an unseen face decays to 1/e
_VELOCITY_MEMORY = 0.25  # seconds


@dataclass(eq=False)
class Track:
    """One face followed over time.

    id: number, never reused in the same source.
    face: its position at `time`, in seconds; box and landmarks are filtered. seen: time of the last detection.
    velocity: of the box's centre, pixels per second.
    """

    id: int
    face: Face
    time: float
    seen: float = field(init=False)
    velocity: tuple[float, float] = (0.0, 0.0)
    _filter: LandmarkFilter = field(init=False, repr=False)
    _place: tuple[float, float] = field(init=False, repr=False)  # centre at the last detection
    _histogram: ColorHistogram | None = field(default=None, init=False, repr=False)
    _samples: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.seen = self.time
        self._filter = LandmarkFilter(self.face, self.time)
        self._place = _centre(self.face.box)

    def box_at(self, time: float) -> Box:
        """Return the box moved along its decaying velocity to `time`."""
        x, y, width, height = self.face.box
        far = _GLIDE * (1 - math.exp(-max(time - self.time, 0.0) / _GLIDE))
        return x + self.velocity[0] * far, y + self.velocity[1] * far, width, height

    def _carry(self, motion: SimilarityMotion | None, time: float) -> None:
        if motion is None:
            now, then = self.box_at(time), self.face.box
            motion = SimilarityMotion(_centre(then), (now[0] - then[0], now[1] - then[1]))
        self.face, self.time = self._filter.carry(motion), time

    def _detected(self, face: Face, time: float, histogram: ColorHistogram | None, alone: bool) -> None:
        """Add a detection. `alone`: no other face is so close that box and colours may be partly its own."""
        elapsed = time - self.seen
        self.face = self._filter.update(face, time)
        place = _centre(self.face.box)
        if elapsed > 0 and alone:
            new = 1 - math.exp(-elapsed / _VELOCITY_MEMORY)
            self.velocity = (
                self.velocity[0] + new * ((place[0] - self._place[0]) / elapsed - self.velocity[0]),
                self.velocity[1] + new * ((place[1] - self._place[1]) / elapsed - self.velocity[1]),
            )
        self._place, self.time, self.seen = place, time, time
        if histogram is not None and (alone or self._histogram is None):
            self._samples += 1
            share = max(_LEARNING, 1 / self._samples)
            self._histogram = (
                histogram
                if self._histogram is None
                else np.asarray(self._histogram + share * (histogram - self._histogram))
            )

    def _cost(self, face: Face, histogram: ColorHistogram | None, time: float) -> float:
        """Return the cost of matching a face: distance in face sizes, change of size, colours; inf if impossible."""
        box = self.box_at(time)
        size = max(math.sqrt(self.face.size * face.size), 1.0)
        (x, y), (u, v) = _centre(box), _centre(face.box)
        apart = math.hypot(x - u, y - v) / size / (1 + time - self.seen)  # less certain the longer it was unseen
        growth = max(face.size, 1.0) / max(self.face.size, 1.0)
        if apart > _FARTHEST or not 1 / _LIKEST_SIZES < growth**2 < _LIKEST_SIZES:
            return math.inf
        cost = apart + 0.5 * abs(math.log(growth))
        if histogram is not None and self._histogram is not None:
            cost += _APPEARANCE * hellinger_distance(self._histogram, histogram)
        return cost


class Tracker:
    """Joins the faces detected in one source into tracks, and carries them along between detections.

    A detection is matched to a track near its predicted position, of similar size and colours, best pairs first
    (optimal assignment did not switch ids less often in 42 filmed encounters). While faces overlap, neither colours nor
    velocity are updated. A track without a detection moves on, ever slower, and ends `patience` seconds after its last
    one. Faces scored under 0.7 may continue a track that no better one matches, but do not begin one (ByteTrack, Zhang
    et al., ECCV 2022).

    next_id: number of the next track.
    """

    def __init__(self, patience: float = 2.0, next_id: int = 1) -> None:
        self._patience = patience
        self._tracks: list[Track] = []
        self._visible: list[Track] = []
        self.next_id = next_id
        self._flow = MedianFlow()
        self._carried: float | None = None  # time of the last image
        self.lost = False

    @property
    def tracks(self) -> list[Track]:
        """Live tracks, whether seen at the last update or not."""
        return list(self._tracks)

    def carry(self, image: NDArray[np.uint8], time: float) -> list[Track]:
        """Follow the faces of the last update into the next image, RGB [H,W,3]; return their tracks in that order.

        Calling it again for the same image changes nothing. `lost` is set if the motion of a face is unknown.
        """
        if time == self._carried:
            return list(self._visible)
        motions = self._flow.follow(image, [track.face.box for track in self._visible])
        self._carried, self.lost = time, None in motions
        for track, motion in zip(self._visible, motions, strict=True):
            track._carry(motion, time)
        self._flow.keep(image, [track.face.box for track in self._visible])
        return list(self._visible)

    def update(self, faces: list[Face], time: float, image: NDArray[np.uint8] | None = None) -> list[Track]:
        """Match the faces detected at `time` (rising) in `image`, RGB [H,W,3]; without an image only motion counts.

        Returns the tracks of the faces, in their order, without faces too weak to begin one. A given face with an id
        belongs to the track with that id, whatever it looks like.
        """
        if image is not None:
            self.carry(image, time)
        self._tracks = [
            track
            for track in self._tracks
            if time - track.seen <= self._patience or track.time == time  # was carried to this image
        ]
        histograms = [None if image is None else color_histogram(image, face.box) for face in faces]
        owner = self._match(faces, histograms, time)
        for f, face in enumerate(faces):
            if f not in owner and (face.score >= _SURE or _id_of(face) is not None):
                owner[f] = Track(self._number(face), face, time)
                self._tracks.append(owner[f])
        places = {id(track): track.box_at(time) for track in self._tracks}
        places |= {id(track): faces[f].box for f, track in owner.items()}
        for f, track in sorted(owner.items()):
            others = (box for key, box in places.items() if key != id(track))
            alone = not any(_overlap(faces[f].box, box) > _OVERLAP for box in others)
            track._detected(faces[f], time, histograms[f], alone)
        self._visible = [owner[f] for f in sorted(owner)]
        if image is not None:
            self._flow.keep(image, [track.face.box for track in self._visible])
        return list(self._visible)

    def _match(self, faces: list[Face], histograms: list[ColorHistogram | None], time: float) -> dict[int, Track]:
        """Return the tracks that are continued, by index of the face."""
        by_id = {track.id: track for track in self._tracks}
        named = {f: by_id[number] for f, face in enumerate(faces) if (number := _id_of(face)) in by_id}
        owner = dict(named)
        nameless = [f for f, face in enumerate(faces) if _id_of(face) is None]
        for weak in (False, True):
            rows = [track for track in self._tracks if track not in owner.values()]
            columns = [f for f in nameless if (faces[f].score < _SURE) is weak]
            pairs = sorted(
                (row._cost(faces[f], histograms[f], time), r, f) for r, row in enumerate(rows) for f in columns
            )
            taken: set[int] = set()
            for cost, r, f in pairs:
                if cost < _LIMIT and r not in taken and f not in owner:
                    taken.add(r)
                    owner[f] = rows[r]
        return owner

    def _number(self, face: Face) -> int:
        number = _id_of(face)
        if number is None:
            number = self.next_id
        self.next_id = max(self.next_id, number + 1)
        return number


def _id_of(face: Face) -> int | None:
    return face.id if isinstance(face, GivenFace) else None


def _centre(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _overlap(a: Box, b: Box) -> float:
    """Return the share of the smaller box that the other covers."""
    return intersection(a, b) / max(min(a[2] * a[3], b[2] * b[3]), 1e-9)
