"""A source whose images are rotated before any other processing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from .frames import Frame, Source

Turn = Callable[[Frame], NDArray[np.uint8]]
"""Returns a frame's image, rotated."""


class RotatedSource(Source):
    """The frames of `source`, each with the image that `turn` returns, RGB uint8 [H,W,3] → [H',W',3].

    degrees: returns by how many degrees clockwise `turn` rotates at the moment.
    """

    def __init__(self, source: Source, turn: Turn, degrees: Callable[[], int] = lambda: 0) -> None:
        self._source, self._turn, self._degrees = source, turn, degrees
        self.name, self.warn, self.live, self.photos = source.name, source.warn, source.live, source.photos

    @property
    def rate(self) -> float | None:  # type: ignore[override]
        return self._source.rate

    @property
    def count(self) -> int | None:  # type: ignore[override]
        return self._source.count

    @property
    def unread(self) -> Mapping[str, str]:  # type: ignore[override]
        return self._source.unread

    @property
    def reconnecting(self) -> bool:  # type: ignore[override]
        return self._source.reconnecting

    @property
    def rotation(self) -> int:  # type: ignore[override]
        return self._degrees()

    def __iter__(self) -> Iterator[Frame]:
        return (self._turned(frame) for frame in self._source)

    def frames(self) -> Iterator[Frame]:
        return (self._turned(frame) for frame in self._source.frames())

    def _turned(self, frame: Frame) -> Frame:
        image = self._turn(frame)
        return Frame(image, frame.index, frame.time, frame.decode, frame.arrived, frame.cut, frame.file)

    def close(self) -> None:
        self._source.close()
