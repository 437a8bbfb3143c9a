"""Several sources at once: one reader thread each, and the frames that are ready, as they get ready."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Literal

from ..errors import DferError
from ..timing import SHORT_WAIT
from .frames import Frame, Source

State = Literal["opening", "running", "reconnecting", "ended", "failed"]

_AHEAD = 2
"""Frames of a file that are read ahead, so that one can be taken while the next is decoded."""
_PATIENCE = 1.0
"""Seconds to wait, on closing, for readers; one that hangs in a driver is left behind and ends when that returns."""


class SourceReader:
    """A source with the thread that reads it. Made by `SourceReaders`.

    number: place among the sources of this run, from 0. name, rate, count: the source's.
    live: whether frames that are not taken in time are dropped (live sources; every source with `realtime`).
    dropped: how many were. taken: frames handed out.
    error: one line, where the state is "failed"; fault: the exception behind it.
    """

    def __init__(self, source: Source, number: int, realtime: bool, lock: threading.Lock) -> None:
        self.source, self.number = source, number
        self.live = source.live or realtime
        self.taken = self.dropped = 0
        self.error: str | None = None
        self.fault: Exception | None = None
        self._state: State = "opening"
        self._begin: float | None = None  # by the clock, when a file that plays as if live was at time 0
        self._waiting: deque[Frame] = deque()
        self._after: Callable[[], None] = lambda: None  # called, with the lock held, when it has ended
        self._closing = False
        self._room = threading.Condition(lock)  # notified of frames taken and of closing

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def rate(self) -> float | None:
        return self.source.rate

    @property
    def count(self) -> int | None:
        return self.source.count

    @property
    def state(self) -> State:
        """ "opening" until the first frame."""
        return "reconnecting" if self._state == "running" and self.source.reconnecting else self._state

    @property
    def waiting(self) -> int:
        """Frames that can be taken now."""
        return len(self._waiting)

    @property
    def done(self) -> bool:
        """Whether its last frame was taken."""
        return self._state in ("ended", "failed") and not self._waiting

    def ended_after(self, frames: int) -> bool:
        """Whether it has ended and handed out just so many frames."""
        return self.done and self.taken == frames

    def _read(self, ready: threading.Condition, alone: bool) -> None:
        """The reader thread; `ready` is notified of frames and of the end. alone: an error is not warned of."""
        state: State = "failed"
        try:
            for frame in self.source.frames():
                with ready:
                    if not self._offer(frame):
                        break
                    ready.notify_all()
            state = "ended"
        except Exception as error:  # raised where the frames are taken
            if self._closing:
                state = "ended"
            else:
                self.fault = error
                self.error = str(error) if isinstance(error, DferError) else f"{self.name}: reading failed: {error}"
                if not alone:
                    self.source.warn(self.error)
        finally:
            self.source.close()
            with ready:
                self._state = "failed" if self.error is not None else state
                self._after()
                ready.notify_all()

    def _offer(self, frame: Frame) -> bool:
        """Put a frame where it can be taken, once it is time and there is room; False when closing."""
        if self.live and not self.source.live:
            if self._begin is None:
                self._begin = monotonic() - frame.time
            self._room.wait_for(lambda: self._closing, self._begin + frame.time - monotonic())
            frame.arrived = monotonic()
        if self.live:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        else:
            self._room.wait_for(lambda: self._closing or len(self._waiting) < _AHEAD)
        if self._closing:
            return False
        self._waiting.append(frame)
        self._state = "running"
        return True

    def _take(self) -> Frame:
        frame = self._waiting.popleft()
        self.taken += 1
        self._room.notify()
        if not self.live:
            frame.arrived = monotonic()
        return frame


class SourceReaders:
    """Reads all of `sources` at once, from now on, and closes them. Use as a context manager.

    realtime: play files as if live: frames come at their media times, and those not taken by the next are dropped.
    jobs: how many sources that are not live are read at once, None for all; the others wait.
    Of sources with the same name the later ones get a number, so that results can be told apart.
    """

    def __init__(self, sources: Sequence[Source], *, realtime: bool = False, jobs: int | None = None) -> None:
        tell_apart(sources)
        lock = threading.Lock()  # one for all; each reader has a condition of its own to sleep through others' affairs
        self._ready = threading.Condition(lock)
        self._closing = False
        self.readers = tuple(SourceReader(source, number, realtime, lock) for number, source in enumerate(sources))
        self._threads = [
            threading.Thread(
                target=reader._read, args=(self._ready, len(sources) == 1), name=f"reader of {reader.name}", daemon=True
            )
            for reader in self.readers
        ]
        self._waiting: deque[threading.Thread] = deque()  # readers whose turn has not come
        with lock:
            for reader, thread in zip(self.readers, self._threads, strict=True):
                if reader.live:
                    thread.start()
                else:
                    reader._after = self._start_next
                    self._waiting.append(thread)
            for _ in range(len(self._waiting) if jobs is None else jobs):
                self._start_next()
        atexit.register(self.close)  # a thread that the end of the program cuts off in C++ would abort it

    def _start_next(self) -> None:
        if self._waiting and not self._closing:
            self._waiting.popleft().start()

    @property
    def closing(self) -> bool:
        """Whether they are closed, or about to be: no more frames come."""
        return self._closing

    def start(self, work: Callable[[], None]) -> None:
        """Run `work`, which takes the frames, in a thread that `close` waits for."""
        self._threads.append(threading.Thread(target=work, name="taker of frames", daemon=True))
        self._threads[-1].start()

    def batches(self) -> Iterator[list[tuple[SourceReader, Frame]]]:
        """The frames that are ready, in the order of the sources, at most one of each; waits until there is one.

        If one of several fails, it is warned of, its reader keeps the error, and the others go on. A single source's
        error is raised here as a DferError, after its last frame. Ends when all have ended, and after `close`.
        """
        while True:
            with self._ready:
                while not self._ready.wait_for(self._has_news, SHORT_WAIT):
                    pass
                if self._closing:
                    return
                batch = [(reader, reader._take()) for reader in self.readers if reader._waiting]
            if not batch:
                break
            yield batch
        if len(self.readers) == 1 and self.readers[0].fault is not None:
            raise DferError(self.readers[0].error) from self.readers[0].fault

    def fail(self, reader: SourceReader, error: DferError) -> None:
        """Read a source no further, since its frames cannot be used: it has failed. Raises `error` for the only one."""
        if len(self.readers) == 1:
            raise error
        with self._ready:
            reader.fault, reader.error = error, str(error)
            reader._state, reader._closing = "failed", True
            reader._waiting.clear()
            reader._room.notify()
        reader.source.close()
        reader.source.warn(reader.error)

    @property
    def failures(self) -> dict[str, str]:
        """The names of the sources that have failed, and why."""
        return {one.name: one.error for one in self.readers if one.state == "failed" and one.error}

    def raise_failures(self) -> None:
        """Raise DferError that names every source that has failed, if any has."""
        if failures := self.failures:
            told = "; ".join(why if name in why else f"{name}: {why}" for name, why in failures.items())
            raise DferError(f"{len(failures)} of {len(self.readers)} sources failed: {told}")

    def _has_news(self) -> bool:
        return (
            self._closing
            or any(reader._waiting for reader in self.readers)
            or all(reader._state in ("ended", "failed") for reader in self.readers)
        )

    def close(self) -> None:
        """End all readers and let go of their devices. May be called from another thread than takes the frames."""
        atexit.unregister(self.close)
        with self._ready:
            self._closing = True
            self._ready.notify_all()
            for reader in self.readers:
                reader._closing = True
                reader._room.notify()
        for reader in self.readers:
            reader.source.close()
        patience = monotonic() + _PATIENCE
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():  # started
                thread.join(max(0.0, patience - monotonic()))

    def __enter__(self) -> SourceReaders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell_apart(sources: Sequence[Source]) -> None:
    """Give the later of sources with one name a number; names that are all different stay."""
    taken = {source.name for source in sources}
    seen: set[str] = set()
    for source in sources:
        name, number = source.name, 2
        while source.name in seen:
            while f"{name} #{number}" in taken:
                number += 1
            source.name = f"{name} #{number}"
            taken.add(source.name)
        seen.add(source.name)
