"""Clip sets that several tests train on or encode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dfer.runtime.labels import EXPRESSIONS


class NoiseClips:
    """Clips of noise that count how often they are read, and fail at one when told to."""

    jitter = 0.0
    shares = None
    classes = EXPRESSIONS

    def __init__(self, count: int, fingerprint: str = "noise") -> None:
        self.labels: NDArray[np.int64] = np.arange(count) % 7
        self.names = [str(index) for index in range(count)]
        self.groups: list[str | None] = [None] * count
        self.fingerprint, self.reads, self.fails_at = fingerprint, 0, -1

    def __len__(self) -> int:
        return len(self.labels)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        if index == self.fails_at:
            raise KeyboardInterrupt
        self.reads += 1
        return np.random.default_rng(index).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)


class FilmedNoise(NoiseClips):
    """The same, with frames that are known one by one."""

    def numbered(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.frames(index, rng), np.arange(16)

    def every_frame(self, index: int) -> Iterator[NDArray[np.uint8]]:
        return iter(self.frames(index))

    def has_frames(self, index: int, count: int) -> bool:
        return count == 16
