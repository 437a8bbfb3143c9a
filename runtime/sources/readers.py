"""Reading several sources at once: one reader thread each, frames delivered as they become ready."""

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
"""Seconds to wait for readers on closing; one that hangs in a driver is abandoned and ends when that call returns."""


class SourceReader:
    """A source with the thread that reads it. Created by `SourceReaders`.

    number: index among the sources of this run, from 0. name, rate, count: the source's.
    live: whether frames not taken in time are dropped (live sources; every source with `realtime`).
    dropped: number of dropped frames. taken: number of frames handed out.
    error: one line if the state is "failed"; fault: the exception behind it.
    """

    def __init__(self, source: Source, number: int, realtime: bool, lock: threading.Lock) -> None:
        self.source, self.number = source, number
        self.live = source.live or realtime
        self.taken = self.dropped = 0
        self.error: str | None = None
        self.fault: Exception | None = None
        self._state: State = "opening"
        self._begin: float | None = None  # clock time of media time 0, for a file played in real time
        self._waiting: deque[Frame] = deque()
        self._after: Callable[[], None] = lambda: None  # called at the end, with the lock held
        self._closing = False
        self._room = threading.Condition(lock)  # notified when a frame is taken and on closing

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
        """Return whether it has ended after handing out exactly so many frames."""
        return self.done and self.taken == frames

    def _read(self, ready: threading.Condition, alone: bool) -> None:
        """Run the reader thread. `ready` is notified of frames and of the end. alone: do not warn of an error."""
        state: State = "failed"
        try:
            for frame in self.source.frames():
                with ready:
                    if not self._offer(frame):
                        break
                    ready.notify_all()
            state = "ended"
        except Exception as error:  # re-raised where the frames are taken
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
        """Make a frame available once it is due and there is room; return False when closing."""
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
    """Reads all of `sources` at once, starting now, and closes them. Use as a context manager.

    realtime: play files in real time: frames come at their media times and are dropped if not taken before the next.
    jobs: how many recorded sources are read at once, None for all; the others wait.
    Sources with the same name are numbered, so that results can be told apart.
    """

    def __init__(self, sources: Sequence[Source], *, realtime: bool = False, jobs: int | None = None) -> None:
        tell_apart(sources)
        lock = threading.Lock()  # shared; each reader has its own condition, so that it is not woken for others
        self._ready = threading.Condition(lock)
        self._closing = False
        self.readers = tuple(SourceReader(source, number, realtime, lock) for number, source in enumerate(sources))
        self._threads = [
            threading.Thread(
                target=reader._read, args=(self._ready, len(sources) == 1), name=f"reader of {reader.name}", daemon=True
            )
            for reader in self.readers
        ]
        self._waiting: deque[threading.Thread] = deque()  # readers not started yet
        with lock:
            for reader, thread in zip(self.readers, self._threads, strict=True):
                if reader.live:
                    thread.start()
                else:
                    reader._after = self._start_next
                    self._waiting.append(thread)
            for _ in range(len(self._waiting) if jobs is None else jobs):
                self._start_next()
        atexit.register(self.close)  # a thread still in C++ code when the program ends would abort it

    def _start_next(self) -> None:
        if self._waiting and not self._closing:
            self._waiting.popleft().start()

    @property
    def closing(self) -> bool:
        """Whether they are closed or closing: no more frames come."""
        return self._closing

    def start(self, work: Callable[[], None]) -> None:
        """Run `work`, which takes the frames, in a thread that `close` waits for."""
        self._threads.append(threading.Thread(target=work, name="taker of frames", daemon=True))
        self._threads[-1].start()

    def batches(self) -> Iterator[list[tuple[SourceReader, Frame]]]:
        """Yield the frames that are ready, at most one per source, in source order; wait until there is one.

        If one of several sources fails, a warning is given, its reader keeps the error, and the others go on. A single
        source's error is raised here as a DferError, after its last frame. Ends when all have ended, and after `close`.
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
        """Mark a source with unusable frames as failed and stop reading it. Raises `error` for the only source."""
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
        """Names of the sources that have failed, and why."""
        return {one.name: one.error for one in self.readers if one.state == "failed" and one.error}

    def raise_failures(self) -> None:
        """Raise DferError naming every source that has failed, if any has."""
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
        """Stop all readers and release their devices. May be called from another thread than takes the frames."""
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
            if thread.ident is not None and thread is not threading.current_thread():  # only started ones
                thread.join(max(0.0, patience - monotonic()))

    def __enter__(self) -> SourceReaders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell_apart(sources: Sequence[Source]) -> None:
    """Number the later of sources with the same name; unique names stay."""
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
