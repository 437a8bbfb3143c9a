"""Collects frames whose faces are already tracked into batches for the encoder."""

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
"""Most bytes of images, and most frames, that wait for a batch; as many may be prepared meanwhile."""


@dataclass(frozen=True)
class Gathered:
    """Frames that are classified together. chosen: the faces to encode. spent: seconds spent on tracking faces in the
    last of them."""

    frames: Sequence[FollowedFrame]
    chosen: Sequence[EncodeRequest]
    spent: float = 0.0


def choose_faces(frames: Sequence[FollowedFrame], scheduler: Scheduler, spent: float = 0.0) -> Gathered:
    """Choose the faces to encode now, from any streams. Call it before processing the next frames."""
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
    """Yield every frame taken from the sources, in order, with its faces, in groups to be classified together.

    A group ends with `at_once` faces or many images; with what is ready if `at_once` is 1 or a source is live. The
    first ends with a face, so that results come early. Grouping a single file is deterministic.

    open_stream: called at the first frame of each source. watch: records decoding times.
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
                watch.add("decode", frame.decode)  # not before: `process` converts the frames it needs
            live = any(reader.live for reader, _ in batch)
            live |= any(reader.live and not reader.done for reader in readers.readers)
            if live or at_once == 1 or faces >= enough or held >= _HELD or len(frames) >= _FRAMES:
                yield choose_faces(frames, scheduler, monotonic() - begun)
                frames, faces, held, enough = [], 0, 0, at_once
                _finish(streams, readers)
    except DferError:  # the only source failed; the frames before are good
        yield choose_faces(frames, scheduler)
        raise
    yield choose_faces(frames, scheduler)
    _finish(streams, readers)


def crops_of(gathered: Gathered) -> Iterator[Crop]:
    """Cut out the faces to encode, one by one."""
    return (request.crop for request in gathered.chosen)


def _finish(streams: dict[int, StreamState], readers: SourceReaders) -> None:
    """Drop the streams whose last frame was read."""
    for number in [number for number in streams if readers.readers[number].done]:
        try:
            streams.pop(number).finish()
        except DferError as error:
            readers.fail(readers.readers[number], error)
