"""Frames in which faces are known already, gathered for the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from time import monotonic

from ..errors import DferError
from ..sources import SourceReader, SourceReaders
from ..timing import Stopwatch
from .scheduler import Scheduler
from .stream import Crop, EncodeRequest, FollowedFrame, StreamState

_HELD, _FRAMES = 32 << 20, 256
"""Bytes of pictures, and their number, from which on no more of them wait; as many may be read meanwhile."""


@dataclass(frozen=True)
class Gathered:
    """Frames that are read together. chosen: those of their faces that are encoded. spent: seconds that following the
    faces into the last of them took."""

    frames: Sequence[FollowedFrame]
    chosen: Sequence[EncodeRequest]
    spent: float = 0.0


def choose_faces(frames: Sequence[FollowedFrame], scheduler: Scheduler, spent: float = 0.0) -> Gathered:
    """Choose the faces whose turn it is, from any streams. To be called before the next frames are followed."""
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
    """Every frame taken from the sources, in order, with its faces, in groups to be read together.

    A group ends with `at_once` faces or many pictures; with what is ready if `at_once` is 1 or a source is live. The
    first ends with a face, so that results begin to come. Groups of a single file are the same every time.

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


def _finish(streams: dict[int, StreamState], readers: SourceReaders) -> None:
    """Let go of those of the streams whose last frame is read."""
    for number in [number for number in streams if readers.readers[number].done]:
        try:
            streams.pop(number).finish()
        except DferError as error:
            readers.fail(readers.readers[number], error)
