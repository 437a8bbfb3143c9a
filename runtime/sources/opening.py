"""From what a user writes to open sources."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..errors import DferError
from .addresses import why_closed, with_encoded_credentials, without_credentials
from .captures import Capture, open_camera, open_file, open_pipeline, open_stream, within
from .files import VideoFile
from .frames import IMAGE_SUFFIXES, Source, Warn, natural_order
from .images import ImageFolder
from .live import LiveSource

SourceSpec: TypeAlias = "str | int | Path"

IMAGE_RATE = 8.0
"""Images that make a second where nothing else is said."""
_OPENING = 30.0
"""Seconds that opening may take; streams give up sooner by themselves."""
_NUMBER = re.compile(r"%0?\d*d")


def open_source(
    spec: SourceSpec,
    image_rate: float = IMAGE_RATE,
    warn: Warn = lambda _: None,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    reconnect_tries: int = 5,
) -> Source:
    """Open one source: whatever `spec` names.

    place: a camera (its number, "/dev/video0", or "csi://0" on a Jetson); a video file; a folder of images, an image,
    or several by a pattern ("frames/*.png", "frame_%04d.png"); a URL (RTSP, HTTP, …); a GStreamer pipeline ("… ! …").
    image_rate: how many images make a second.
    warn: told, in one line, about trouble that is not an error (a video that ends early, a stream that is lost);
    live sources call it from their reader thread.
    size, fps: (width, height) in pixels and frames per second to ask a camera for; other sources have their own.
    reconnect_tries: how often in a row to try again after a camera or stream was lost, before that is an error; 0: the
    source then simply ends.
    Raises DferError when there is nothing to read at `spec`.
    """
    text = str(spec)
    if isinstance(spec, int) or text.startswith(("/dev/video", "/dev/v4l/")):
        name = f"camera {spec}" if isinstance(spec, int) else text
        connect = partial(open_camera, spec if isinstance(spec, int) else text, size, fps)
        capture = _in_time(connect, f"{name} does not open; is it plugged in and free?")
        _compare(name, capture, size, fps, warn)
        return LiveSource(capture, connect, name, warn, reconnect_tries)
    if " ! " in text:
        name = f"gstreamer:{text.split()[0]}"  # elements further on, and any properties, may hold credentials
        connect = partial(open_pipeline, text)
        capture = _in_time(connect, f"{name} does not start; it must end in an appsink, and run with gst-launch-1.0")
        return LiveSource(capture, connect, name, warn, reconnect_tries)
    if text.startswith("csi://"):
        connect = partial(open_pipeline, _csi_pipeline(text, size, fps))
        capture = _in_time(connect, f"{text} does not open; is the camera connected, and nvargus-daemon running?")
        return LiveSource(capture, connect, text, warn, reconnect_tries)
    if "://" in text:
        name, connect = without_credentials(text), partial(open_stream, with_encoded_credentials(text))
        try:
            capture = _in_time(connect, name)
        except DferError as error:
            raise DferError(f"{name} does not open; {why_closed(text)}") from error
        if capture.count and text.lower().startswith(("http://", "https://", "file://")):
            return VideoFile(capture, name, warn)
        return LiveSource(capture, connect, name, warn, reconnect_tries)
    path = Path(text)
    if path.is_dir():
        images = [file for file in path.iterdir() if _is_image(file)]
        if not images:
            raise DferError(f"{path}: this folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageFolder(sorted(images, key=_by_name), text, image_rate, warn)
    if _is_pattern(text):
        files = _matches(text)
        if _is_image(files[0]):
            return ImageFolder(files, text, image_rate, warn)
        if len(files) > 1:
            raise DferError(f"{text}: matches {len(files)} files, which are as many sources; use expand() first")
        path = files[0]
    if not path.is_file():
        raise DferError(f"{path}: no such file or folder")
    if _is_image(path):
        return ImageFolder([path], text, image_rate, warn)
    video = _in_time(partial(open_file, str(path)), f"{path}: not a video that OpenCV can read")
    return VideoFile(video, str(path), warn)


def expand(specs: Iterable[SourceSpec]) -> list[SourceSpec]:
    """The places of single sources: a pattern becomes the files that it matches, in natural order.

    A pattern of images stays as it is, for that is one source. Raises DferError for a pattern that matches nothing, or
    both images and other files.
    """
    single: list[SourceSpec] = []
    for spec in specs:
        if _is_pattern(spec) and not _is_image((files := _matches(str(spec)))[0]):
            single += files
        else:
            single.append(spec)
    return single


def open_sources(
    specs: Iterable[SourceSpec],
    image_rate: float = IMAGE_RATE,
    warn: Warn = lambda _: None,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    reconnect_tries: int = 5,
) -> list[Source]:
    """Open all of `expand(specs)`, or none; see `open_source`."""
    opened: list[Source] = []
    try:
        for spec in expand(specs):
            opened.append(open_source(spec, image_rate, warn, size=size, fps=fps, reconnect_tries=reconnect_tries))
    except BaseException:
        for source in opened:
            source.close()
        raise
    return opened


def _in_time(connect: partial[Capture | None], failure: str) -> Capture:
    """The open capture; opened in another thread, so that Ctrl-C works meanwhile."""
    try:
        capture = within(_OPENING, connect, discard=_release)
    except TimeoutError:
        capture = None
    if capture is None:
        raise DferError(failure)
    return capture


def _release(capture: Capture | None) -> None:
    if capture is not None:
        capture.release()


def _compare(name: str, capture: Capture, size: tuple[int, int] | None, fps: float | None, warn: Warn) -> None:
    """Warn when a camera gives something else than it was asked for."""
    if size and capture.size != size:
        warn(f"{name}: gives {capture.size[0]}×{capture.size[1]} pixels, not the {size[0]}×{size[1]} asked for")
    if fps and capture.rate and abs(capture.rate - fps) > 0.05 * fps:
        warn(f"{name}: gives {capture.rate:g} frames per second, not the {fps:g} asked for")


def _csi_pipeline(spec: str, size: tuple[int, int] | None, fps: float | None) -> str:
    """A Jetson's CSI camera through NVIDIA's own elements, the newest frame kept; 1280×720 at 30 unless asked."""
    sensor = spec.removeprefix("csi://")
    if not sensor.isdecimal():
        raise DferError(f"{spec}: a CSI camera is named by its sensor number, such as csi://0")
    width, height = size or (1280, 720)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, "
        f"framerate=(fraction){round(fps or 30)}/1, format=(string)NV12 ! nvvidconv ! video/x-raw, "
        "format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1"
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _by_name(path: Path) -> list[tuple[int, str]]:
    return natural_order(str(path))


def _is_pattern(spec: SourceSpec) -> bool:
    """Whether `spec` has wildcards, and is no address and no file that is really called so."""
    text = str(spec)
    if isinstance(spec, int) or "://" in text or " ! " in text or Path(text).exists():
        return False
    return glob.has_magic(text) or _NUMBER.search(Path(text).name) is not None


def _matches(pattern: str) -> list[Path]:
    """The files of a pattern in natural order: images or others, at least one."""
    if number := _NUMBER.search(Path(pattern).name):
        folder, name = Path(pattern).parent, Path(pattern).name
        shape = re.compile(re.escape(name[: number.start()]) + r"(\d+)" + re.escape(name[number.end() :]))
        candidates = folder.iterdir() if folder.is_dir() else ()
        found = [file for file in candidates if (at := shape.fullmatch(file.name)) and number[0] % int(at[1]) == at[1]]
    else:
        found = [Path(file) for file in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (absolute ones too)
    if not found:
        raise DferError(f"{pattern}: matches no file")
    if len({_is_image(file) for file in found}) > 1:
        raise DferError(f"{pattern}: matches images and other files; images are one source, so name them apart")
    return sorted(found, key=_by_name)
