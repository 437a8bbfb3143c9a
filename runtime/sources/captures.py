"""A safe wrapper of OpenCV's VideoCapture: any thread may release it, opening has a time limit, its log is silent."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DferError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads it when it first uses FFmpeg; see `_Quiet`

OPEN_TIMEOUT, READ_TIMEOUT = 10.0, 10.0
"""Seconds after which a network stream that does not respond, or stops sending, counts as lost."""
_LONGEST_STUMBLE = 1.0
"""Seconds of failed reads after which to stop trying: damaged frames fail at once, lost devices may be slow."""
_USB2 = 24e6
"""Bytes per second that a camera can send over USB 2 (isochronous: 3 × 1024 bytes in each of 8000 microframes)."""


@dataclass(frozen=True)
class Picture:
    """image: RGB uint8 [H,W,3]. decode: seconds from arrival (with FFmpeg, after decoding) until it was RGB."""

    image: NDArray[np.uint8]
    decode: float


class Capture:
    """An open `cv2.VideoCapture`. rate: frames per second, or None; size: (width, height), pixels."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._released = False
        _Quiet.begin()
        rate = float(opened.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else None
        self.size = int(opened.get(cv2.CAP_PROP_FRAME_WIDTH)), int(opened.get(cv2.CAP_PROP_FRAME_HEIGHT))

    def read(self, tries: int = 1) -> Picture | None:
        """Return the next picture, skipping at most `tries` - 1 damaged ones; None if there is none, or after release.

        OpenCV does not distinguish a damaged picture from the end: both are failed reads.
        """
        try:
            with self._lock:
                start = perf_counter()
                for _ in range(tries):
                    if self._released:
                        break
                    if picture := self._read():
                        return picture
                    if perf_counter() - start > _LONGEST_STUMBLE:
                        break
                return None
        finally:
            if self._released:
                self.release()

    def _read(self) -> Picture | None:
        try:
            if not self._opened.grab():
                return None
            came = perf_counter()
            got, image = self._opened.retrieve()
            if not got:
                return None
            rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        except cv2.error:  # a picture that OpenCV rejects counts as damaged
            return None
        return Picture(rgb, perf_counter() - came)

    def release(self) -> None:
        """Release the device, now or, if another thread is reading, when that read returns. Does not wait."""
        self._released = True
        if self._lock.acquire(blocking=False):
            try:
                if self._opened is not None:
                    self._opened.release()
                    self._opened = None
                    _Quiet.end()
            finally:
                self._lock.release()


class _Quiet:
    """Silences OpenCV's log while any capture is open: we report errors ourselves, and the log may contain URLs."""

    _lock = threading.Lock()
    _count, _previous = 0, 0

    @classmethod
    def begin(cls) -> None:
        with cls._lock:
            cls._count += 1
            if cls._count == 1:
                cls._previous = cls._set_level(0)

    @classmethod
    def end(cls) -> None:
        with cls._lock:
            cls._count -= 1
            if cls._count == 0:
                cls._set_level(cls._previous)

    @staticmethod
    def _set_level(level: int) -> int:
        """Set the log level; return the previous one."""
        log: Any = getattr(cv2.utils, "logging", cv2)  # cv2 itself before OpenCV 4.13, as on a Jetson
        return int(log.setLogLevel(level))


def open_stream(url: str) -> Capture | None:
    """Open any URL; None when it does not open in time."""
    if not built_with("FFMPEG"):  # a Jetson's OpenCV may have only GStreamer, which has its own limit of 30 s
        return _open(url)
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT), (cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT)
    return _open(url, cv2.CAP_FFMPEG, [number for key, limit in limits for number in (key, round(1000 * limit))])


def open_pipeline(pipeline: str) -> Capture | None:
    """Open a GStreamer pipeline that ends in an appsink; None when it does not start.

    Raises DferError if this OpenCV is built without GStreamer.
    """
    if not built_with("GStreamer"):
        raise DferError(
            f"this OpenCV ({cv2.__version__}) is built without GStreamer, which this source needs; put one built with "
            "it in place of opencv-python-headless (on a Jetson: JetPack's, beside numpy<2; or build with "
            "-D WITH_GSTREAMER=ON)"
        )
    return _open(pipeline, cv2.CAP_GSTREAMER)


def csi_pipeline(spec: str, size: tuple[int, int] | None, fps: float | None) -> str:
    """Return the pipeline for a Jetson's CSI camera, keeping only the newest frame; by default 1280×720 at 30 fps."""
    sensor = spec.removeprefix("csi://")
    if not sensor.isdecimal():
        raise DferError(f"{spec}: a CSI camera is named by its sensor number, such as csi://0")
    width, height = size or (1280, 720)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, "
        f"framerate=(fraction){round(fps or 30)}/1, format=(string)NV12 ! nvvidconv ! video/x-raw, "
        "format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1"
    )


def open_camera(device: int | str, size: tuple[int, int] | None = None, fps: float | None = None) -> Capture | None:
    """Open a camera by number or device file, requesting a size and frames per second; None if it does not open.

    MJPG is requested if raw video of that size and rate (YUYV, 2 bytes a pixel) exceeds the bandwidth of USB 2.
    """
    # Named explicitly: on a Jetson, OpenCV would otherwise use GStreamer, which ignores these requests.
    backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
    wishes: list[tuple[int, float]] = []
    width, height = size or (640, 480)
    if width * height * 2 * (fps or 30) > _USB2:
        wishes.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")))  # first: it makes more sizes available
    if size:
        wishes += [(cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)]
    if fps:
        wishes.append((cv2.CAP_PROP_FPS, fps))
    return _open(device, backend, wishes=wishes)


def built_with(library: str) -> bool:
    """Return whether this OpenCV was built with "FFMPEG" or "GStreamer"."""
    return re.search(rf"\b{library}:\s+YES", cv2.getBuildInformation()) is not None


def _open(
    place: int | str,
    backend: int = cv2.CAP_ANY,
    parameters: Sequence[int] = (),
    wishes: Sequence[tuple[int, float]] = (),
) -> Capture | None:
    _Quiet.begin()
    try:
        opened = cv2.VideoCapture(place, backend, parameters)
        if not opened.isOpened():
            return None
        for key, value in wishes:
            opened.set(key, value)
        return Capture(opened)
    finally:
        _Quiet.end()
