"""Frames in which faces are known already, gathered for the encoder while it reads the ones before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from queue import SimpleQueue
from threading import Event, Semaphore
from time import monotonic
from typing import TypeVar

from ..errors import DferError
from ..sources import SourceReader, SourceReaders
from ..timing import Stopwatch
from .scheduler import Scheduler
from .stream import Crop, EncodeRequest, FollowedFrame, StreamState

T = TypeVar("T")

_HELD, _FRAMES = 32 << 20, 256
"""Bytes of pictures, and their number, from which on no more of them wait; as many may be read meanwhile."""
_PAUSE = 0.2  # seconds between looks whether readers are closed, while what they gave is not taken


@dataclass(frozen=True)
class Gathered:
    """Frames that are read together. chosen: those of their faces that are encoded. spent: seconds that following the
    faces into the last of them took."""

    frames: Sequence[FollowedFrame]
    chosen: Sequence[EncodeRequest]
    spent: float = 0.0


def choose_faces(frames: Sequence[FollowedFrame], scheduler: Scheduler, spent: float = 0.0) -> Gathered:
    """Choose those faces of any streams whose turn it is. Only then may the next frames be followed."""
    chosen = scheduler.choose([request for followed in frames for request in followed.requests])
    for request in chosen:
        request.stream.take(request)
    return Gathered(frames, chosen, spent)


def gather(
    readers: SourceReaders,
    open_stream: Callable[[SourceReader], StreamState],
    at_once: int,
    scheduler: Scheduler,
    watch: Stopwatch,
) -> Iterator[Gathered]:
    """Every frame that is taken of sources, in order, with its faces, those together that are to be read together.

    They end with `at_once` faces or many pictures; with those that are ready, where that is 1 and while a live source
    is read. The first ends with a face, so that results begin to come.
    Those of a single file are the same every time.

    open_stream: called at the first frame of each source. watch: told what decoding took.
    """
    streams: dict[int, StreamState] = {}  # of sources being read
    frames: list[FollowedFrame] = []
    faces = held = 0
    enough = 1
    try:
        for batch in readers.batches():
            begun = monotonic()
            for reader, frame in batch:
                try:
                    if reader.number not in streams:
                        streams[reader.number] = open_stream(reader)
                    frames.append(streams[reader.number].process(frame))
                    faces += len(frames[-1].requests)
                    held += prod(frame.shape)
                except DferError as error:
                    readers.fail(reader, error)
                    streams.pop(reader.number, None)
                watch.add("decode", frame.decode)  # not before: `process` converts those that it reads
            live = any(reader.live for reader, _ in batch)
            live |= any(reader.live and not reader.done for reader in readers.readers)
            if live or at_once == 1 or faces >= enough or held >= _HELD or len(frames) >= _FRAMES:
                yield choose_faces(frames, scheduler, monotonic() - begun)
                frames, faces, held, enough = [], 0, 0, at_once
                _finish(streams, readers)
    except DferError:  # of the only source: what came before is good
        yield choose_faces(frames, scheduler)
        raise
    yield choose_faces(frames, scheduler)
    _finish(streams, readers)


def crops_of(gathered: Gathered) -> Iterator[Crop]:
    """Cut out the faces that are to be encoded, one by one."""
    return (request.crop for request in gathered.chosen)


class Pace:
    """When to follow the next frames: at once, or, where they are to be fresh, just in time for the encoder."""

    def __init__(self, fresh: bool) -> None:
        self._fresh = fresh
        self._use = {False: 0.0, True: 0.0}  # seconds for which frames are used, without and with faces, running means
        self._spent = 0.0  # seconds for which those with faces are followed, of late at most: every few are searched

    def learn(self, gathered: Gathered, seconds: float) -> None:
        """Take note of how long frames were used, that is encoded, read and written."""
        read = bool(gathered.chosen)
        self._use[read] = (self._use[read] + seconds) / 2 if self._use[read] else seconds
        if read:
            self._spent = max(gathered.spent, 0.9 * self._spent)

    def rest(self, gathered: Gathered) -> float:
        """Seconds for which the next frames are not followed yet, from when these are used."""
        return self._use[bool(gathered.chosen)] - 1.5 * self._spent if self._fresh else 0.0


def prefetch(
    items: Iterator[T],
    readers: SourceReaders,
    prepare: Callable[[T], Iterator[object]] = lambda _: iter(()),
    rest: Callable[[T], float] = lambda _: 0.0,
) -> Iterator[T]:
    """The items, made from frames of `readers`, each in a thread while the one before it is used.

    prepare: what can be done to an item in steps, for as long as nobody takes it.
    rest: seconds of an item's use before the next is begun, unless it is wanted sooner.

    The thread ends when no more are taken, or the readers are closed, which waits for it.
    """
    taken, wanted, made = Semaphore(1), Event(), SimpleQueue[tuple[T | None, BaseException | None]]()
    taking = True

    def make() -> None:
        error: BaseException | None = None
        item: T | None = None
        while error is None:
            while not taken.acquire(timeout=_PAUSE) and not readers.closing:
                pass
            due = monotonic() + (0.0 if item is None else rest(item))
            while (left := due - monotonic()) > 0 and not readers.closing and not wanted.wait(min(left, _PAUSE)):
                pass
            if not taking:
                break
            try:
                item = next(items, None)
                made.put((item, None))
                if item is None:
                    break
                for _ in prepare(item):
                    if made.empty() or not taking or readers.closing:  # who took it does the rest
                        break
            except BaseException as caught:  # raised where the next item is taken
                error = caught
                made.put((None, error))

    readers.start(make)
    try:
        while True:
            wanted.set()
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            wanted.clear()
            taken.release()
            yield item
    finally:
        taking = False
        wanted.set()
        taken.release()


def _finish(streams: dict[int, StreamState], readers: SourceReaders) -> None:
    """Let go of those of the streams whose last frame is read."""
    for number in [number for number in streams if readers.readers[number].done]:
        try:
            streams.pop(number).finish()
        except DferError as error:
            readers.fail(readers.readers[number], error)
