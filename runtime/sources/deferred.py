"""A source that is opened only when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event

from ..errors import DferError
from .frames import Frame, Source, Warn
from .live import pauses


class DeferredSource(Source):
    """The source that `opening` returns, opened when its first frame is requested; rate and count are None until then.

    name: overrides the opened source's name. live: whether it is live.
    tries: how often to retry if it does not open, with growing pauses. Iterating raises what `opening` raises.
    """

    def __init__(
        self, name: str, opening: Callable[[], Source], warn: Warn, live: bool = False, tries: int = 0
    ) -> None:
        self.name, self.rate, self.count = name, None, None
        self.warn, self.live = warn, live
        self._opening, self._tries = opening, tries
        self._opened: Source | None = None
        self._closing = Event()

    @property
    def reconnecting(self) -> bool:  # type: ignore[override]
        return self._opened is not None and self._opened.reconnecting

    def __iter__(self) -> Iterator[Frame]:
        self._opened = opened = self._open()
        opened.name = self.name  # may have been numbered to be unique
        self.rate, self.count, self.unread = opened.rate, opened.count, opened.unread
        if self._closing.is_set():
            opened.close()
        try:
            yield from opened.frames()
        finally:
            self.close()
            self._opened = None  # the decoder's threads end when nothing references it

    def _open(self) -> Source:
        for pause in pauses(self._tries):
            try:
                return self._opening()
            except DferError as error:
                self.warn(f"{error}; trying again")
                if self._closing.wait(pause):
                    raise
        return self._opening()

    def close(self) -> None:
        self._closing.set()
        opened = self._opened
        if opened is not None:
            opened.close()
