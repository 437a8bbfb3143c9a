"""Which face is which: detections of one source joined into tracks by overlap and motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .faces import Face

Box = tuple[float, float, float, float]

_FARTHEST_JUMP = 1.5  # face sizes between two detections of one person without overlap
_LONGEST_GLIDE = 0.4  # seconds over which a velocity is believed


@dataclass
class Track:
    """One face followed over time.

    id: number, never used again in the same source.
    face: as last detected. time: when, in seconds. velocity: of the box's centre, pixels per second.
    """

    id: int
    face: Face
    time: float
    velocity: tuple[float, float] = (0.0, 0.0)

    def box_at(self, time: float) -> Box:
        """The box carried along its velocity to `time`."""
        x, y, width, height = self.face.box
        elapsed = min(time - self.time, _LONGEST_GLIDE)
        return x + self.velocity[0] * elapsed, y + self.velocity[1] * elapsed, width, height


class Tracker:
    """Greedy matching of detections to predicted boxes, best overlap first.

    A track without overlap may still take a detection of like size close by (fast motion, low sampling rates).
    Tracks not seen for `patience` seconds end.
    """

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self._tracks: list[Track] = []
        self._next_id = 1

    @property
    def tracks(self) -> list[Track]:
        """Tracks that are alive, seen at the last update or not."""
        return list(self._tracks)

    def update(self, faces: list[Face], time: float) -> list[Track]:
        """Match the faces found at `time`; returns one track per face, in the order of `faces`."""
        self._tracks = [track for track in self._tracks if time - track.time <= self._patience]
        pairs = sorted(
            (
                (_affinity(track.box_at(time), face.box), t, f)
                for t, track in enumerate(self._tracks)
                for f, face in enumerate(faces)
            ),
            reverse=True,
        )
        owner: dict[int, Track] = {}
        taken: set[int] = set()
        for affinity, t, f in pairs:
            if affinity < -_FARTHEST_JUMP:
                break
            if t not in taken and f not in owner:
                taken.add(t)
                owner[f] = self._tracks[t]
                _advance(self._tracks[t], faces[f], time)
        for f, face in enumerate(faces):
            if f not in owner:
                owner[f] = Track(self._next_id, face, time)
                self._next_id += 1
                self._tracks.append(owner[f])
        return [owner[f] for f in range(len(faces))]


def _affinity(a: Box, b: Box) -> float:
    """Overlap (intersection over union) where boxes overlap; else minus the distance in face sizes, −inf if unlike."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    area_a, area_b = a[2] * a[3], b[2] * b[3]
    if width > 0 and height > 0:
        shared = width * height
        union = area_a + area_b - shared
        return shared / union if union > 0 else 0.0
    size = math.sqrt(math.sqrt(area_a * area_b))
    if size <= 0 or not 0.4 < area_a / max(area_b, 1e-9) < 2.5:
        return -math.inf
    apart = math.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2)
    return -apart / size


def _advance(track: Track, face: Face, time: float) -> None:
    elapsed = time - track.time
    if elapsed > 0:
        moved = [
            (face.box[i] + face.box[i + 2] / 2 - track.face.box[i] - track.face.box[i + 2] / 2) / elapsed
            for i in (0, 1)
        ]
        track.velocity = (
            0.5 * track.velocity[0] + 0.5 * moved[0],
            0.5 * track.velocity[1] + 0.5 * moved[1],
        )
    track.face, track.time = face, time
