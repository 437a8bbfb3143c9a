"""Where frames come from: a video file, images, a camera, a network stream.

Files hand over every frame and wait; live sources hand over the newest frame and drop the others. Times are media
times: a file's presentation time stamps, counted from its first frame; for live sources, the moment of arrival.
"""

from __future__ import annotations

import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .errors import DferError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

Warn = Callable[[str], object]

_WHOLE = 0.95
"""Share of the announced frames that is no truncation: containers often count a few that are never shown."""
_FIRST_FRAME = 15.0
"""Seconds that a camera or stream that opened may take to its first picture."""


@dataclass(frozen=True)
class Frame:
    """image: RGB uint8 [H,W,3]. index: in the source, from 0. time: seconds since the first frame."""

    image: NDArray[np.uint8]
    index: int
    time: float


class Source(ABC):
    """Frames in order, once. Use as a context manager.

    name: for people and result files; holds no credentials.
    rate: frames per second where the source tells, else None. count: frames announced, else None.
    live: whether frames that are not taken in time are dropped.
    """

    name: str
    rate: float | None
    count: int | None
    live: ClassVar[bool] = False

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:  # noqa: B027 (images hold nothing open)
        """Let go of the file or device."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(place: str | int | Path, image_rate: float = 8.0, warn: Warn = lambda _: None) -> Source:
    """Open a camera (an int), a URL, a folder of images, an image, or a video file.

    image_rate: how many images of a folder make a second.
    warn: told, in one line, about trouble that is not an error (a video that ends early).
    Raises DferError when there is nothing to read at `place`.
    """
    if isinstance(place, int):
        return LiveSource(place, f"camera {place}", f"camera {place} does not open; is it plugged in and free?", warn)
    text = str(place)
    if "://" in text:
        name = without_credentials(text)
        failure = f"{name} does not open; check the address and that the stream is up"
        if text.lower().startswith(("http://", "https://", "file://")):
            recorded = VideoFile(text, name, failure, warn)
            if recorded.count:
                return recorded
            recorded.close()
        return LiveSource(text, name, failure, warn)
    path = Path(text)
    if path.is_dir():
        images = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES),
            key=lambda file: natural_order(file.name),
        )
        if not images:
            raise DferError(f"{path}: this folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageFolder(images, text, image_rate, warn)
    if not path.is_file():
        raise DferError(f"{path}: no such file or folder")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder([path], text, image_rate, warn)
    return VideoFile(text, text, f"{text}: not a video that OpenCV can read", warn)


class VideoFile(Source):
    """Every frame of a recorded video, with its presentation time."""

    def __init__(self, place: str, name: str, failure: str, warn: Warn) -> None:
        self.name = name
        self._warn = warn
        self._capture = _open_capture(place)
        if not self._capture.isOpened():
            raise DferError(failure)
        cv2 = _cv2()
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None
        # Decoding the first frame now tells a broken file before any output is made.
        self._first = self._read()
        if self._first is None:
            self.close()
            raise DferError(f"{name}: no frame of this video can be decoded")

    def _read(self) -> tuple[NDArray[np.uint8], float] | None:
        """The next picture and its time stamp in seconds."""
        cv2 = _cv2()
        got, image = self._capture.read()
        if not got:
            return None
        stamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8), stamp

    def __iter__(self) -> Iterator[Frame]:
        index, start, time, step = 0, 0.0, -1.0, 1 / (self.rate or 25.0)
        current = self._first
        self._first = None
        while current is not None:
            image, stamp = current
            if index == 0:
                start = stamp
            # Missing or backward time stamps: carry on at the nominal rate, so that times always rise.
            time = stamp - start if stamp - start > time else time + step
            yield Frame(image, index, time)
            index += 1
            current = self._read()
        if self.count is not None and index < _WHOLE * self.count:
            self._warn(f"{self.name}: ends after {index} of {self.count} announced frames (truncated?)")

    def close(self) -> None:
        self._capture.release()


class ImageFolder(Source):
    """Images in natural order ("2.jpg" before "10.jpg"), `rate` of them to a second."""

    def __init__(self, paths: list[Path], name: str, rate: float, warn: Warn) -> None:
        self.name, self.rate, self.count = name, rate, len(paths)
        self._step = 1 / rate
        self._paths, self._warn = paths, warn
        if all(_cv2().imread(str(path)) is None for path in paths):  # ends at the first good one
            raise DferError(f"{paths[0]}: not an image that OpenCV can read" + (", nor the others" * (len(paths) > 1)))

    def __iter__(self) -> Iterator[Frame]:
        cv2 = _cv2()
        for index, path in enumerate(self._paths):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if image is None:
                self._warn(f"{path}: not an image that OpenCV can read; left out")
                continue
            yield Frame(np.asarray(image, dtype=np.uint8), index, index * self._step)


class LiveSource(Source):
    """A camera or stream. A thread reads without pause and keeps only the newest frame, so nothing ever lags."""

    live = True

    def __init__(self, place: str | int, name: str, failure: str, warn: Warn) -> None:
        self.name, self.count = name, None
        self._warn = warn
        self._capture = _open_capture(place)
        if not self._capture.isOpened():
            raise DferError(failure)
        rate = float(self._capture.get(_cv2().CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else None
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._keep_newest, name=f"reader of {name}", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, _FIRST_FRAME)
            if self._newest is None:
                self._closed = True
                raise DferError(f"{name} opens but gives no picture; is it in use elsewhere, is the stream up?")

    def _keep_newest(self) -> None:
        cv2 = _cv2()
        index, start = 0, 0.0
        try:
            while not self._closed:
                got, image = self._capture.read()
                if not got:
                    break
                now = monotonic()
                start = start or now
                rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                with self._changed:
                    self._newest = Frame(rgb, index, now - start)
                    self._changed.notify()
                index += 1
        except Exception as error:  # handed to the thread that iterates
            self._error = error
        finally:
            self._capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
                frame, self._newest = self._newest, None
            if frame is None:
                break
            yield frame
        if self._error is not None:
            raise DferError(f"{self.name}: reading failed: {self._error}") from self._error
        if not self._closed:
            self._warn(f"{self.name}: gives no more pictures")

    def close(self) -> None:
        self._closed = True
        self._thread.join(timeout=5)  # a read that hangs keeps the device; the thread lets go of it when it returns


def without_credentials(url: str) -> str:
    """The URL without user name, password, query and fragment, any of which may be a secret.

    Cut by hand: passwords are often not percent-encoded, and a "/" or "#" in one misleads URL parsers.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://" + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def _open_capture(place: str | int) -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when FFmpeg is first used; errors are ours to word
    cv2 = _cv2()
    logging = cv2.utils.logging
    previous = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(place)
    finally:
        logging.setLogLevel(previous)


def _cv2() -> Any:
    import cv2

    return cv2


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts "2.jpg" before "10.jpg"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
