"""Frames in which faces are known already, gathered so that the encoder reads many faces at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from queue import SimpleQueue
from threading import Semaphore
from typing import TypeVar

from ..errors import DferError
from ..sources import SourceReader, SourceReaders
from ..timing import Stopwatch
from .stream import Crop, FollowedFrame, StreamState

T = TypeVar("T")

_HELD, _FRAMES = 32 << 20, 256
"""Bytes of pictures, and their number, from which on no more of them wait; as many may be read meanwhile."""
_PAUSE = 0.2  # seconds between looks whether readers are closed, while what they gave is not taken


def gather(
    readers: SourceReaders, open_stream: Callable[[SourceReader], StreamState], at_once: int, watch: Stopwatch
) -> Iterator[list[FollowedFrame]]:
    """Every frame that is taken of sources, in order, with its faces, in lists of those that are to be read together.

    Lists end with `at_once` faces or many pictures; with those that are ready, where that is 1 and while a live source
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
                yield frames
                frames, faces, held, enough = [], 0, 0, at_once
                _finish(streams, readers)
    except DferError:  # of the only source: what came before is good
        yield frames
        raise
    yield frames
    _finish(streams, readers)


def crops_of(frames: list[FollowedFrame]) -> Iterator[Crop]:
    """Cut out the faces that are to be encoded, one by one."""
    return (request.crop for followed in frames for request in followed.requests)


def prefetch(
    items: Iterator[T], readers: SourceReaders, prepare: Callable[[T], Iterator[object]] = lambda _: iter(())
) -> Iterator[T]:
    """The items, made from frames of `readers`, each in a thread while the one before it is used.

    prepare: what can be done to an item in steps, for as long as nobody takes it.

    The thread ends when no more are taken, or the readers are closed, which waits for it.
    """
    wanted, made = Semaphore(1), SimpleQueue[tuple[T | None, BaseException | None]]()
    taking = True

    def make() -> None:
        error: BaseException | None = None
        while error is None:
            while not wanted.acquire(timeout=_PAUSE) and not readers.closing:
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
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            wanted.release()
            yield item
    finally:
        taking = False
        wanted.release()


def _finish(streams: dict[int, StreamState], readers: SourceReaders) -> None:
    """Let go of those of the streams whose last frame is read."""
    for number in [number for number in streams if readers.readers[number].done]:
        try:
            streams.pop(number).finish()
        except DferError as error:
            readers.fail(readers.readers[number], error)
