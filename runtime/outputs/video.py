"""Writes a video that is playable at any time: after the run, if it was killed, or if the disk was full.

The file is a fragmented MP4, with its final name from the first frame on. Each fragment of a second or two can be
played without what follows.
"""

from __future__ import annotations

import errno
import importlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError
from ..machine import physical_cores, run_tool
from .overlay import fit

_LARGEST_SIDE, _SMALLEST_SIDE = 4096, 2  # pixels; MPEG-4 allows 8191, players less
_PATIENCE = 60.0  # seconds for ffmpeg to accept a frame, and to finish a file
_FRAGMENT = 2.0  # seconds lost at most, plus the encoder's look-ahead, when everything is killed at once
_PIPE = 1 << 20  # bytes, the largest pipe that an unprivileged process may request
_LONGEST_HOLD = 10.0  # seconds


class VideoSink:
    """An MP4 of RGB frames at their media times.

    H.264 if there is an `ffmpeg` with libx264 (on the PATH, or from the package imageio-ffmpeg: `[video]`); else
    MPEG-4 part 2 by OpenCV, which desktop players support and browsers do not. `codec` says which.

    rate: frames per second; frames are repeated or dropped if the source's times are uneven, so that the video lasts
    as long as the source, except that no frame is held for more than 10 seconds. size: width and height of the
    frames, pixels; more than 4096 are scaled down, odd numbers rounded up.

    Raises DferError, naming the file, when it cannot be written (and, while writing, when the disk is full: what was
    written before plays). After an error inside a `with` the file is removed; see `discard`.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self._path = path
        shrink = min(1.0, _LARGEST_SIDE / max(size))
        width, height = (max(_SMALLEST_SIDE, 2 * round((side * shrink + 0.5) / 2)) for side in size)
        self._size = width, height
        self._written = 0
        self._late = 0.0  # seconds cut from frames held too long
        self._shown: NDArray[np.uint8] | None = None  # the frame to show until the next
        existed = path.exists()
        try:
            self._rate, self._encoder = _open_encoder(path, rate, self._size)
        except BaseException:  # even on Ctrl-C, leave no empty file
            if not existed and path.is_file():
                path.unlink()
            raise
        self.codec = self._encoder.codec

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Show a frame [H,W,3] from `time` (seconds, rising) on; one of another size than the first's is scaled."""
        if image.shape[1::-1] != self._size:
            image = fit(image, *self._size)
        held = time - self._late - self._written / self._rate
        self._late += max(0.0, held - _LONGEST_HOLD)
        place = round((time - self._late) * self._rate)
        while self._shown is not None and self._written < place:
            self._add(self._shown)
        self._shown = image
        if self._written <= place:
            self._add(image)

    def _add(self, image: NDArray[np.uint8]) -> None:
        self._encoder.write(image)
        self._written += 1

    def close(self) -> None:
        """Finish the file."""
        self._encoder.close()

    def discard(self) -> None:
        """Stop and remove the file."""
        with suppress(DferError):
            self._encoder.close()
        if self._path.is_file():
            self._path.unlink()

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _Encoder(Protocol):
    codec: str

    def write(self, image: NDArray[np.uint8]) -> None:
        """Encode an RGB frame."""

    def close(self) -> None:
        """Write what is left; raises DferError if anything did not reach the file."""


def _open_encoder(path: Path, rate: float, size: tuple[int, int]) -> tuple[float, _Encoder]:
    """Return the supported rate and the best encoder. Until the first frame there is no file, since an empty one would
    be an invalid video if the process were killed."""
    program = find_ffmpeg()
    existed = path.exists()
    try:
        with path.open("ab"):  # raises the system's error if the file cannot be written
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise DferError(f"{path}: the video cannot be written: {error.strerror}") from error
    if program is not None:
        return rate, _Ffmpeg(program, path, rate, size)
    return _open_opencv(path, rate, size)


def codec_here() -> str:
    """Return the codec of videos on this machine: "H.264" or "MPEG-4"."""
    return _OpenCv.codec if find_ffmpeg() is None else _Ffmpeg.codec


@cache
def find_ffmpeg() -> str | None:
    """Return an `ffmpeg` that encodes H.264 with libx264: from the PATH, else from the package imageio-ffmpeg."""
    candidates = [shutil.which("ffmpeg")]
    with suppress(ImportError, RuntimeError):  # not installed; no binary for this machine
        import imageio_ffmpeg

        candidates.append(imageio_ffmpeg.get_ffmpeg_exe())
    able = (path for path in candidates if path and "--enable-libx264" in (run_tool(path, "-version") or ""))
    return next(able, None)


@cache
def _ends_plain(program: str) -> bool:
    """Return whether it can turn a finished file into a plain MP4, in which every player can seek."""
    return "hybrid_fragmented" in (run_tool(program, "-hide_banner", "-h", "muxer=mp4") or "")


class _Ffmpeg:
    """An ffmpeg process fed with raw frames. If the run is killed, it lives on just long enough to finish the file."""

    codec = "H.264"

    def __init__(self, program: str, path: Path, rate: float, size: tuple[int, int]) -> None:
        self._path = path
        # B-frames, a fifth of a file's size, would delay its first frame: offsets below zero make up for them, which
        # older programs lack.
        flags, late = "+hybrid_fragmented+negative_cts_offsets", []
        if not _ends_plain(program):
            flags, late = "+frag_keyframe+empty_moov+default_base_moof", ["-bf", "0"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _finish)
        self._process = subprocess.Popen(
            [
                *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-filter_threads", "1"),
                *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{size[0]}x{size[1]}", "-r", f"{rate:.6f}"),
                *("-i", "pipe:0", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"),
                *late,
                *("-threads", str(max(1, physical_cores() // 2))),  # the others decode, detect and draw
                *("-g", str(max(1, round(_FRAGMENT * rate))), "-movflags", flags, "-flush_packets", "1"),
                *("-f", "mp4", f"file:{path}"),
            ],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # Shield ffmpeg from Ctrl-C; it ends when its input does.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # for Windows, which has no sessions
        )
        assert self._process.stdin is not None
        self._room = None
        if os.name == "posix":  # other systems cannot wait for a pipe
            os.set_blocking(self._process.stdin.fileno(), False)
            self._room = select.poll()
            self._room.register(self._process.stdin, select.POLLOUT)
            _widen(self._process.stdin.fileno())

    def write(self, image: NDArray[np.uint8]) -> None:
        import cv2

        assert self._process.stdin is not None
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)  # half the bytes, and faster than ffmpeg's own conversion
        pipe, left = self._process.stdin.fileno(), planes.data.cast("B")
        try:
            while left:
                if self._room is not None and not self._room.poll(_PATIENCE * 1000):
                    self._kill("took nothing for")
                left = left[os.write(pipe, left) :]
        except OSError as error:  # ffmpeg has ended
            self._finish()
            raise DferError(f"{self._path}: the video cannot be written") from error

    def close(self) -> None:
        if self._process.returncode is None:
            self._finish()

    def _finish(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill("did not end within")
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        self._errors.close()
        if not status and not self._path.exists():
            raise DferError(f"{self._path}: was deleted while it was written")
        if status:
            full = os.strerror(errno.ENOSPC)
            reason = full if any(full in line for line in said) else said[0] if said else f"ffmpeg ended with {status}"
            raise DferError(f"{self._path}: the video cannot be written: {reason}")

    def _kill(self, fault: str) -> NoReturn:
        self._process.kill()
        self._process.wait()
        self._errors.close()
        raise DferError(f"{self._path}: ffmpeg {fault} {_PATIENCE:g} s and was killed")


def _widen(pipe: int) -> None:
    """Enlarge a pipe to hold a frame, if the system can: encoding runs in parallel, and a kill loses no first frame."""
    fcntl = importlib.import_module("fcntl")  # not on Windows
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with suppress(OSError):  # the system limits the total size of pipes
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _open_opencv(path: Path, rate: float, size: tuple[int, int]) -> tuple[float, _Encoder]:
    """Return the rate at which it could be opened, and OpenCV's encoder."""
    if not hasattr(os, "mkfifo"):
        raise DferError(f"{path}: videos need ffmpeg on this system; run: pip install 'dfer-edge[video]'")
    for tried in (rate, max(1.0, float(round(rate)))):  # MPEG-4 cannot express every odd rate
        opened = _open_writer(tried, size)
        if opened is not None:
            return tried, _OpenCv(path, *opened)
    raise DferError(f"{path}: OpenCV cannot write a {size[0]}×{size[1]} video at {rate:g} frames/s")


def _open_writer(rate: float, size: tuple[int, int]) -> tuple[Any, int] | None:
    """Return OpenCV's writer and the pipe that it writes to; None if it cannot encode this video.

    OpenCV passes no options to the container and does not report a full disk. So it writes to a pipe, in the only
    FFmpeg container that is always a fragmented MP4 (ismv), and we write the file.
    """
    import cv2

    with tempfile.TemporaryDirectory(prefix="dfer-") as folder:
        pipe = Path(folder) / "pipe.ismv"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # first, since the writer waits for it
        writer = cv2.VideoWriter(str(pipe), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if writer.isOpened():
        os.set_blocking(reader, True)
        return writer, reader
    os.close(reader)
    return None


class _OpenCv:
    """OpenCV's encoder, and a thread that copies its output to the file."""

    codec = "MPEG-4"

    def __init__(self, path: Path, writer: Any, reader: int) -> None:
        self._path, self._writer, self._reader = path, writer, reader
        self._error: OSError | None = None
        self._file = path.open("wb", buffering=0)
        self._thread = threading.Thread(target=self._carry, name=f"writer of {path}", daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        """Copy until the encoder closes the pipe; after an error, discard data so that the encoder does not block."""
        while data := os.read(self._reader, 1 << 16):
            left = memoryview(data)
            try:
                while left and self._error is None:
                    left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        os.close(self._reader)

    def write(self, image: NDArray[np.uint8]) -> None:
        import cv2

        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if self._error is not None:
            self.close()

    def close(self) -> None:
        if self._file.closed:
            return
        self._writer.release()
        self._thread.join()
        self._file.close()
        if self._error is not None:
            raise DferError(f"{self._path}: the video cannot be written: {self._error.strerror}") from self._error
