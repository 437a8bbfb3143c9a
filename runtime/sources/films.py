"""Recorded video, decoded by FFmpeg through PyAV: exact time stamps, square pixels, deinterlaced frames."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError, ParameterError

_THREADS = 2  # per decoder: a third gains little, and many files may be open
_MOST_DAMAGED = 10_000
"""Consecutive failed reads after which a film counts as ended; each takes microseconds."""
_ASPECTS = 0.25, 4.0  # plausible sample aspect ratios, width to height
_SQUARE = 0.01  # relative change of a side that is not worth resampling for
_FILES = ("matroska", "mov", "avi", "asf", "ogg", "gif", "apng")
"""Containers that always hold recordings; the others are live if they report no duration."""
_UNDECODED = "the device does not decode its codec; the CPU does, where no device is named"


def accelerator(device: str) -> Any:
    """Return a hardware decoder of this machine by FFmpeg's name: "cuda", "qsv", "videotoolbox", "d3d11va", …

    Pictures are copied back to memory. A codec the device cannot decode is an error, not left to the CPU. Untested on
    real devices.

    Raises ParameterError for one that this FFmpeg was built without.
    """
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if device not in (known := hwdevices_available()):
        raise ParameterError("hwaccel", f"this FFmpeg does not know {device!r}; it knows {', '.join(known) or 'none'}")
    return HWAccel(device, allow_software_fallback=False)


class _Converter:
    """Converts FFmpeg's frames to RGB; one per film, since creating one costs as much as a frame."""

    def __init__(self) -> None:
        import av

        self._lock = threading.Lock()
        self._reformatter = av.video.reformatter.VideoReformatter()

    def convert(self, frame: Any, width: int, height: int) -> NDArray[np.uint8]:
        with self._lock:
            return np.asarray(self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray())


@dataclass(frozen=True)
class Picture:
    """A decoded picture, not yet RGB. stamp: seconds by the container's clock, None without a time stamp. spent:
    seconds that reading and decoding took. shape: [H,W,3], as displayed."""

    stamp: float | None
    spent: float
    _frame: Any
    _size: tuple[int, int]  # width and height with square pixels, before rotation
    _turns: int  # by 90 degrees, counter-clockwise
    _flipped: bool  # upside down, before rotation
    _converter: _Converter

    @property
    def shape(self) -> tuple[int, int, int]:
        width, height = self._size
        return (width, height, 3) if self._turns % 2 else (height, width, 3)

    def convert(self) -> NDArray[np.uint8]:
        """Return RGB uint8 [H,W,3]. Any thread may call it, even after the film is closed."""
        image = self._converter.convert(self._frame, *self._size)
        if self._flipped:
            image = np.flipud(image)
        return np.ascontiguousarray(np.rot90(image, self._turns))


class Film:
    """An open video. Reads the stream marked as default; pictures are upright, with square pixels.

    place: an open binary file, which is closed with the film, or a URL. name: for errors.
    timeout: seconds without data after which a connection counts as lost; None waits forever.
    hwaccel: from `accelerator`; None decodes on the CPU.

    rate: frames per second, or None. count: pictures announced, or None. length: seconds announced, or None.
    accelerated: whether a device decodes.
    ends: whether it is a recording, not an endless stream. jumps: whether its clock may jump, as in broadcasts.
    damaged: pictures that did not decode. fault: the system's error message if reading broke off.
    Raises DferError if there is no video in it; ParameterError if the accelerator does not decode it.
    """

    def __init__(
        self, place: IO[bytes] | str, name: str, timeout: float | None = None, hwaccel: Any | None = None
    ) -> None:
        import av

        self._lock = threading.Lock()
        self._released = False
        self._file = None if isinstance(place, str) else place
        whole_riff = self._file is not None and _is_whole_riff(self._file)
        try:
            self._container: Any = av.open(
                place if isinstance(place, str) else _Nameless(place),
                timeout=None if timeout is None else (timeout, timeout),
                hwaccel=hwaccel,
            )
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            self._close_file()
            if hwaccel is not None and getattr(error, "filename", None) is None:  # not an error of the file or URL
                why = _UNDECODED
                if isinstance(error, av.FFmpegError):
                    why = f"the device does not start here ({error.strerror})"
                raise ParameterError("hwaccel", f"{name}: {why}") from error
            if isinstance(place, str):
                raise DferError(f"{name} does not open; check the address and that the stream is up") from error
            raise DferError(f"{name}: not a video that FFmpeg can read") from error
        cover = av.stream.Disposition.attached_pic
        streams = [one for one in self._container.streams.video if not one.disposition & cover]
        known = [one for one in streams if one.codec_context is not None]
        if not known:
            self._container.close()
            self._close_file()
            what = "its video is in a codec that is not known here" if streams else "there is no video in it"
            raise DferError(f"{name}: {what}")
        best = self._container.streams.best("video")
        self._stream = best if best in known else known[0]
        if hwaccel is not None and not self._stream.codec_context.is_hwaccel:
            self._container.close()
            self._close_file()
            raise ParameterError("hwaccel", f"{name}: {_UNDECODED}")
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = _THREADS
        self._converter, self.accelerated = _Converter(), hwaccel is not None
        self.damaged, self.fault = 0, ""
        self._measure(whole_riff)
        self._pictures = self._decode()

    def _measure(self, whole_riff: bool) -> None:
        """Read the container's metadata. An AVI's header often miscounts; the index of a complete one does not."""
        import av

        container, stream = self._container, self._stream
        kind = container.format.name.split(",")[0]
        stamped = stream.start_time is not None or stream.duration is not None
        rate = stream.average_rate if stamped and stream.average_rate else stream.guessed_rate
        self.rate = float(rate) if rate and 0 < rate < 1000 else None
        length = None
        if stream.duration and stream.time_base:
            length = float(stream.duration * stream.time_base)
        elif container.duration:  # some containers count it from 0, others from the first picture
            length = (container.duration - max(container.start_time or 0, 0)) / av.time_base
        self.length = length if length is not None and length > 0 else None
        by_time = None if self.length is None or self.rate is None else round(self.length * self.rate)
        self.count: int | None
        if kind == "avi" and stream.frames:
            self.count = len(stream.index_entries) if whole_riff else stream.frames
            self.length = None if self.rate is None else self.count / self.rate
        elif stream.frames and by_time:  # an edit list may skip stored frames
            self.count = min(stream.frames, max(by_time, 1))
        else:
            self.count = stream.frames or by_time
        self.piped_mp4 = kind == "mov" and self._file is not None and not self._file.seekable()
        self.ends = self.length is not None or kind in _FILES
        self.jumps = bool(container.format.flags & av.format.Flags.ts_discont.value)

    def read(self) -> Picture | None:
        """Return the next picture that decodes; None at the end and after release."""
        try:
            with self._lock:
                if self._released:
                    return None
                start = perf_counter()
                frame = next(self._pictures, None)
                if frame is None:
                    return None
                stamp = frame.time if frame.pts is not None else None
                turns, flipped = round(frame.rotation / 90) % 4, _is_mirrored(frame)
                spent = perf_counter() - start
                return Picture(stamp, spent, frame, self._size(frame), turns, flipped, self._converter)
        finally:
            if self._released:
                self.release()

    def _decode(self) -> Iterator[Any]:
        """Yield frames in display order, deinterlaced."""
        weave = _Deinterlacer(self._stream)
        for frame in self._frames():
            yield from weave.push(frame)
        yield from weave.finish()

    def _frames(self) -> Iterator[Any]:
        """Yield the frames that decode, in display order."""
        import av

        for packet in self._packets():
            try:
                frames = packet.decode()
            except EOFError:
                return
            except av.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged += 1
                else:
                    yield frame

    def _packets(self) -> Iterator[Any]:
        """Yield packets, going on after damaged ones; at the end an empty one, to flush the decoder."""
        import av

        failed = 0
        while failed < _MOST_DAMAGED:
            try:
                for packet in self._container.demux(self._stream):
                    failed = 0
                    if packet.size:  # an empty one would flush the decoder
                        yield packet
                break
            except av.InvalidDataError:
                failed += 1
            except EOFError:
                break
            except (av.FFmpegError, OSError) as error:
                # A stream without known duration or size ends this way.
                if self._file is not None or self.length is not None or self._container.size > 0:
                    self.fault = getattr(error, "strerror", None) or str(error)
                break
        end: Any = av.Packet()
        end.stream, end.time_base = self._stream, self._stream.time_base
        yield end

    def _size(self, frame: Any) -> tuple[int, int]:
        """Return width and height of a frame with square pixels; enlarged, so that no detail is lost."""
        width, height = frame.width, frame.height
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if _ASPECTS[0] <= aspect <= _ASPECTS[1] and abs(aspect - 1) > _SQUARE:
            return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        return width, height

    def seek(self, stamp: float) -> None:
        """Continue from the last keyframe at or before `stamp`. Only for films in files, before the first read or
        between two."""
        with self._lock:
            self._pictures.close()  # type: ignore[attr-defined]
            self._container.seek(int(stamp / float(self._stream.time_base or 1)), stream=self._stream)
            self._pictures = self._decode()

    def stamps(self) -> list[float]:
        """Return the time stamps, in seconds by the container's clock, of all stored pictures in stored order, without
        decoding them. Empty if any has none."""
        self.seek(-1e6)
        with self._lock:
            packets = [packet for packet in self._packets() if packet.size and not packet.is_discard]
            if any(packet.pts is None for packet in packets):
                return []
            return [float(packet.pts * packet.time_base) for packet in packets]

    def release(self) -> None:
        """Release the file, now or, if another thread is reading, when that read returns. Does not wait."""
        self._released = True
        if self._lock.acquire(blocking=False):
            try:
                self._pictures.close()  # type: ignore[attr-defined]
                self._container.close()
                self._close_file()
            finally:
                self._lock.release()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()


class _Nameless:
    """A binary file whose name is hidden from FFmpeg: it may not be UTF-8, and the content determines the format."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seekable = file.read, file.seekable
        if file.seekable():
            self.seek, self.tell = file.seek, file.tell


def _is_whole_riff(file: IO[bytes]) -> bool:
    """Return whether it is a RIFF file, such as AVI, that is as long as its header says."""
    if not file.seekable():
        return False
    start = file.tell()
    head = file.read(8)
    length = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return head[:4] == b"RIFF" and length >= 8 + int.from_bytes(head[4:], "little")


def _is_mirrored(frame: Any) -> bool:
    """Return whether a frame's display matrix (ISO 14496-12, 8.3.2) mirrors it, besides any rotation."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
    return bool(a * d < b * c)


class _Deinterlacer:
    """Deinterlaces frames (Bob Weaver, `bwdif`); progressive ones pass unchanged."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._graph: Any = None
        self._shape: tuple[Any, ...] = ()

    def push(self, frame: Any) -> Iterator[Any]:
        shape = frame.width, frame.height, frame.format.name
        if self._graph is not None and shape != self._shape:
            yield from self.finish()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame
                return
            self._open(shape)
        self._graph.push(frame)
        yield from self._pull()

    def _open(self, shape: tuple[Any, ...]) -> None:
        import av.filter

        self._shape = shape
        self._graph = av.filter.Graph()
        width, height, form = shape
        source = self._graph.add_buffer(width=width, height=height, format=form, time_base=self._stream.time_base)
        weave = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, weave, self._graph.add("buffersink")).configure()

    def _pull(self) -> Iterator[Any]:
        import av

        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, EOFError):
                return
            yield frame

    def finish(self) -> Iterator[Any]:
        """Yield the frames still in the filter."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pull()
            self._graph = None
