"""A source that is opened when it is its turn to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .frames import Frame, Source, Warn


class DeferredSource(Source):
    """What `opening` opens, once its first frame is asked for; rate and count are None until then.

    name: what it is called, whatever the opened source calls itself. live: whether that is live.
    Its frames raise what `opening` raises.
    """

    def __init__(self, name: str, opening: Callable[[], Source], warn: Warn, live: bool = False) -> None:
        self.name, self.rate, self.count = name, None, None
        self.warn, self.live = warn, live
        self._opening = opening
        self._opened: Source | None = None
        self._closed = False

    @property
    def reconnecting(self) -> bool:  # type: ignore[override]
        return self._opened is not None and self._opened.reconnecting

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self) -> Iterator[Frame]:
        self._opened = opened = self._opening()
        opened.name = self.name  # another source may have had it first
        self.rate, self.count = opened.rate, opened.count
        if self._closed:
            opened.close()
        try:
            yield from opened.frames()
        finally:
            self.close()
            self._opened = None  # its decoder's threads end when nothing refers to it

    def close(self) -> None:
        self._closed = True
        opened = self._opened
        if opened is not None:
            opened.close()
