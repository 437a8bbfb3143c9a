"""Chooses which faces to encode now: all faces of files, and as many live ones as this machine can do in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A face that waits for the encoder. live: whether its source is live. last_served: number of its last encoding
    among all encodings, -1 before the first."""

    @property
    def live(self) -> bool: ...

    @property
    def last_served(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Scheduler:
    """Limits the work per frame batch, so that under load predictions become rarer, evenly, but never older.

    Live faces share the encodings that fit into one sampling step (`step`, seconds), at least one; those that waited
    longest go first, the others wait for the next batch's newest frame. Faces of files are all encoded, since files
    wait. The cost of a face is measured continuously; `cost` (seconds) is the initial value.

    encoded, skipped: live samples that were encoded, and that were skipped for lack of time.
    """

    def __init__(self, step: float, cost: float = 0.0) -> None:
        self._step = step
        self._cost = cost  # per face, a running mean
        self._served = 0
        self.encoded = self.skipped = 0

    @property
    def skipped_share(self) -> float:
        """Share of live samples that were skipped, 0..1."""
        return self.skipped / max(1, self.skipped + self.encoded)

    def choose(self, waiting: Sequence[C]) -> list[C]:
        """Return the faces to encode in this batch: those of files in order, then live ones, longest waiting first."""
        room = max(1, int(self._step / self._cost)) if self._cost > 0 else len(waiting)
        live = sorted((one for one in waiting if one.live), key=lambda one: one.last_served)[:room]
        self.encoded += len(live)
        return [*(one for one in waiting if not one.live), *live]

    def serve(self) -> int:
        """Return the number of the next encoding, which becomes the `last_served` of its face."""
        self._served += 1
        return self._served - 1

    def skip(self, samples: int) -> None:
        """Count samples of a live face that were never encoded."""
        self.skipped += samples

    def learn(self, seconds: float, faces: int) -> None:
        """Record the seconds that `faces` (not 0) took."""
        cost = seconds / faces
        self._cost = (self._cost + cost) / 2 if self._cost > 0 else cost
