"""Which faces are encoded now: all of a file's, and of live ones as many as this machine can do in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A face that waits for the encoder. live: whether its source moves on meanwhile. last_served: number that
    its last encoding had among all, -1 before the first."""

    @property
    def live(self) -> bool: ...

    @property
    def last_served(self) -> int: ...


C = TypeVar("C", bound=Candidate)


class Scheduler:
    """Bounds the work of one frame batch, so that under load predictions become rarer, evenly, and never older.

    Faces of live sources get as much of the encoder as fits into one sampling step (`step`, seconds), at least one
    face; those that were served longest ago go first, the others wait for the next batch's newest frame. Faces of
    files are all encoded: files wait. What one face costs is measured as it goes; `cost` (seconds) is what is known.

    encoded, skipped: samples of live faces that were encoded, and that were left out for lack of time.
    """

    def __init__(self, step: float, cost: float = 0.0) -> None:
        self._step = step
        self._cost = cost  # per face, a running mean
        self._served = 0
        self.encoded = self.skipped = 0

    @property
    def skipped_share(self) -> float:
        """Share of the live samples that were left out, 0..1."""
        return self.skipped / max(1, self.skipped + self.encoded)

    def choose(self, waiting: Sequence[C]) -> list[C]:
        """The faces to encode in this batch: those of files as given, then live ones, longest waiting first."""
        room = max(1, int(self._step / self._cost)) if self._cost > 0 else len(waiting)
        live = sorted((one for one in waiting if one.live), key=lambda one: one.last_served)[:room]
        self.encoded += len(live)
        return [*(one for one in waiting if not one.live), *live]

    def serve(self) -> int:
        """Number an encoding; it becomes the `last_served` of its face."""
        self._served += 1
        return self._served - 1

    def skip(self, samples: int) -> None:
        """Count samples of a live face that were never encoded."""
        self.skipped += samples

    def learn(self, seconds: float, faces: int) -> None:
        """Take note of how long `faces` took, which may not be 0."""
        cost = seconds / faces
        self._cost = (self._cost + cost) / 2 if self._cost > 0 else cost
