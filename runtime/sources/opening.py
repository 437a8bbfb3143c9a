"""Opens the sources that a user names."""

from __future__ import annotations

import glob
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ..errors import DferError, ParameterError
from ..timing import call_within
from .addresses import why_closed, with_encoded_credentials, without_credentials
from .captures import READ_TIMEOUT, Capture, csi_pipeline, open_camera, open_pipeline, open_stream
from .deferred import DeferredSource
from .files import VideoFile
from .films import Film, accelerator
from .frames import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Source,
    Warn,
    natural_order,
    open_file,
    readable,
)
from .images import Animation, ImageFolder, are_photos, is_animation, is_film
from .live import LiveSource

SourceSpec: TypeAlias = "str | int | Path"

IMAGE_RATE = 8.0
"""Images per second by default."""
_OPENING = 30.0
"""Seconds that opening may take; streams time out sooner."""
_NUMBER = re.compile(r"%0?\d*d")
_LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
Opened = TypeVar("Opened", Capture, Film)


def open_source(
    spec: SourceSpec,
    image_rate: float = IMAGE_RATE,
    warn: Warn = lambda _: None,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    reconnect_tries: int = 5,
    photos: bool | None = None,
    hwaccel: str | None = None,
) -> Source:
    """Open the source that `spec` names.

    spec: a camera (its number, "/dev/video0", or "csi://0" on a Jetson); a video file; a folder of images, an image,
    or several by a pattern ("frames/*.png", "frame_%04d.png"); a URL (RTSP, HTTP, …); a GStreamer pipeline ("… ! …");
    a named pipe, or "-" for standard input.
    image_rate: images per second.
    warn: called with one line about a problem that is not an error (a video that ends early, a lost stream); live
    sources call it from their reader thread.
    size, fps: (width, height) in pixels and frames per second to request from a camera; ignored for other sources.
    reconnect_tries: attempts in a row to reconnect a lost camera or stream before an error; with 0, it simply ends.
    photos: whether images of a folder or pattern stand alone (see `ImageFolder`); None treats them as photographs if
    their sizes differ or their names are not numbered (`are_photos`), and warns which. A single image stands alone.
    hwaccel: the device, by FFmpeg's name, that decodes video files and recordings over HTTP (see `films.accelerator`);
    None for the CPU. For a live stream, name a decoder in a GStreamer pipeline.
    Raises DferError when `spec` cannot be read, or the device cannot decode it.

    >>> from dfer.runtime import open_source
    >>> with open_source("clip.mp4") as source:
    ...     source.rate, sum(1 for frame in source)
    (24.0, 96)
    """
    source = _open(_named(spec), image_rate, warn, size, fps, reconnect_tries, photos, hwaccel)
    if hwaccel is not None and not isinstance(source, VideoFile):
        source.close()
        raise ParameterError("hwaccel", f"{source.name} is neither a video file nor a recording; it decodes only these")
    return source


def _open(
    spec: SourceSpec,
    image_rate: float,
    warn: Warn,
    size: tuple[int, int] | None,
    fps: float | None,
    reconnect_tries: int,
    photos: bool | None,
    hwaccel: str | None,
) -> Source:
    text, device = str(spec), None if hwaccel is None else accelerator(hwaccel)
    if isinstance(spec, int) or text.startswith(("/dev/video", "/dev/v4l/")):
        name = f"camera {spec}" if isinstance(spec, int) else text
        connect = partial(open_camera, spec if isinstance(spec, int) else text, size, fps)
        failure, mac = f"{name} does not open; is it plugged in and free?", sys.platform == "darwin"
        if mac:
            failure += " May this terminal use it (System Settings, Privacy & Security, Camera)? Then try again"
        capture = _in_time(connect, failure, aside=not mac)  # macOS requests permission only in the main thread
        _compare(name, capture, size, fps, warn)
        return LiveSource(capture, connect, name, warn, reconnect_tries)
    if text == "-":
        return _open_pipe(text, warn, device)
    if not _exists(text):  # a file may be called "x ! y.mp4"
        if " ! " in text:
            name = f"gstreamer:{text.split()[0]}"  # later elements and any properties may hold credentials
            connect = partial(open_pipeline, text)
            failure = f"{name} does not start; it must end in an appsink, and run with gst-launch-1.0"
            return LiveSource(_in_time(connect, failure), connect, name, warn, reconnect_tries)
        if text.startswith("csi://"):
            connect = partial(open_pipeline, csi_pipeline(text, size, fps))
            capture = _in_time(connect, f"{text} does not open; is the camera connected, and nvargus-daemon running?")
            return LiveSource(capture, connect, text, warn, reconnect_tries)
        if "://" in text:
            return _open_address(text, warn, reconnect_tries, device)
    return _open_files(text, image_rate, warn, photos, device)


def _open_address(url: str, warn: Warn, reconnect_tries: int, device: Any | None) -> Source:
    """Open a URL: a recording is read completely, as a file is; anything else is live."""
    name, encoded = without_credentials(url), with_encoded_credentials(url)
    connect = partial(open_stream, encoded)
    try:
        if url.lower().startswith(("http://", "https://", "file://")):
            film = _in_time(partial(Film, encoded, name, READ_TIMEOUT, device), name)
            if film.ends:
                return VideoFile(film, name, warn)
            film.release()
        capture = _in_time(connect, name)
    except ParameterError:  # it opens, but not with this hwaccel
        raise
    except DferError as error:
        raise DferError(f"{name} does not open; {why_closed(url)}") from error
    return LiveSource(capture, connect, name, warn, reconnect_tries)


def _open_pipe(text: str, warn: Warn, device: Any | None) -> Source:
    """Open standard input ("-") or a named pipe."""
    name = "standard input" if text == "-" else readable(text)
    if text == "-" and os.isatty(0):
        raise DferError("standard input is a terminal; write a video into it: … | dfer-run -")

    def connect() -> Film:
        file = os.fdopen(os.dup(0), "rb") if text == "-" else open_file(Path(text))
        return Film(file, name, hwaccel=device)

    return VideoFile(_in_time(connect, f"{name}: nobody writes into this pipe"), name, warn)


def _open_files(text: str, image_rate: float, warn: Warn, photos: bool | None, device: Any | None) -> Source:
    path, name, files = Path(text), readable(text), files_of(text)
    if path.is_dir():
        foreign = [file for file in path.iterdir() if file.suffix.lower() in FOREIGN_SUFFIXES]
        if foreign := [file for file in foreign if not _is_litter(file.name) and file.is_file()]:
            kinds = ", ".join(sorted({file.suffix for file in foreign}))
            warn(f"{name}: {len(foreign)} pictures are left out, for {kinds} cannot be read; convert them to .jpg")
    if not files and not (files := _videos_in(text)):
        known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        inner = sum(file.is_dir() and not _is_litter(file.name) for file in path.iterdir())
        more = f"; {inner} folders in it are not searched: name them, or use dfer-label" if inner else ""
        raise DferError(f"{name}: this folder holds no images and no videos ({known}){more}")
    if path.is_dir() or _is_pattern(text):
        if _is_image(files[0]):
            return _open_images(files, name, image_rate, warn, photos)
        if len(files) > 1:
            raise DferError(f"{name}: {len(files)} files, which are as many sources; name one (`expand` lists them)")
        path = files[0]
    if _exists(text) and not path.is_file():
        return _open_pipe(text, warn, device)
    if not path.is_file():
        raise DferError(f"{name}: no such file or folder")
    if _is_image(path) and not is_film(path):
        if is_animation(path):
            return Animation(path, name, image_rate, warn)
        return _open_images([path], name, image_rate, warn, photos)
    film = _in_time(lambda: Film(open_file(path), name, hwaccel=device), f"{name}: does not open in time")
    return VideoFile(film, readable(path), warn)


def _open_images(paths: list[Path], name: str, rate: float, warn: Warn, photos: bool | None) -> Source:
    if photos is None and len(paths) == 1:
        photos = True
    elif photos is None:
        reason = are_photos(paths)
        photos = reason != ""
        if photos:
            warn(f"{name}: {len(paths)} pictures with {reason} are read as photographs, each on its own, not as film")
        else:
            warn(f"{name}: {len(paths)} pictures are read as film, {rate:g} a second; if each stands alone: --photos")
    return ImageFolder(paths, name, rate, warn, photos is True)


def expand(specs: Iterable[SourceSpec] | SourceSpec) -> list[SourceSpec]:
    """Expand patterns to the files that they match, and folders to the videos in them, in natural order.

    specs: several, or one. A pattern or folder of images stays as it is, since that is one source. Raises DferError for
    an invalid name, a pattern that matches nothing, and a pattern or folder that mixes images and other files.
    """
    single: list[SourceSpec] = []
    for spec in map(_named, specs if isinstance(specs, Iterable) and not isinstance(specs, str) else [specs]):
        if videos := _videos_in(spec):
            single += videos
        elif _is_pattern(spec) and not _is_image((files := _matches(str(spec)))[0]):
            single += files
        else:
            single.append(spec)
    return single


def files_of(spec: SourceSpec) -> list[Path]:
    """Return the files of a single source: the images of a folder or pattern, or the file itself; none for a camera."""
    if isinstance(spec, int):
        return []
    if _is_pattern(spec):
        return _matches(str(spec))
    if not _exists(str(spec)) or not Path(spec).is_dir():
        return [Path(spec)]
    images = (file for file in Path(spec).iterdir() if _is_image(file) and not _is_litter(file.name) and file.is_file())
    return sorted(images, key=_by_name)


def _named(spec: object) -> SourceSpec:
    """Return the source's name, or the camera's number as int. Raises DferError for anything else, such as ""."""
    if isinstance(spec, str | Path) and str(spec):
        return spec
    try:
        if isinstance(spec, bool):
            raise TypeError
        return operator.index(spec)  # type: ignore[arg-type]  # NumPy's numbers, too
    except TypeError as error:
        kinds = "a video, a folder, a pattern or an address, or the number of a camera"
        raise DferError(f"{spec!r} names no source; name {kinds}") from error


def open_sources(
    specs: Iterable[SourceSpec] | SourceSpec,
    image_rate: float = IMAGE_RATE,
    warn: Warn = lambda _: None,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    reconnect_tries: int = 5,
    photos: bool | None = None,
    hwaccel: str | None = None,
) -> list[Source]:
    """Open all of `expand(specs)`, or none; see `open_source`.

    If there are several, files are opened only when they are read, and so are live sources that do not open now; a
    failure then stops neither this call nor the other sources. A file that does not exist is an error now.
    """
    if hwaccel is not None:
        accelerator(hwaccel)  # an unknown device is an error for all
    expanded = expand(specs)
    opened: list[Source] = []
    failed: list[DferError] = []
    try:
        for spec in expanded:
            opening = partial(
                open_source,
                spec,
                image_rate,
                warn,
                size=size,
                fps=fps,
                reconnect_tries=reconnect_tries,
                photos=photos,
                hwaccel=hwaccel,
            )
            if len(expanded) > 1 and (name := _stored(spec)):
                opened.append(DeferredSource(name, opening, warn))
                continue
            try:
                opened.append(opening())
            except DferError as error:
                name = _streamed(spec)
                failed.append(error)
                if name is None or len(failed) == len(expanded):
                    raise
                tries = reconnect_tries if "://" in str(spec) else 0  # retrying would not help an unplugged camera
                opened.append(DeferredSource(name, opening, warn, live=True, tries=tries))
    except BaseException:
        for source in opened:
            source.close()
        raise
    return opened


def _stored(spec: SourceSpec) -> str | None:
    """Return the name of an existing file, folder, or pattern of images; None for anything else."""
    text = str(spec)
    if _is_pattern(spec):
        return readable(text)
    if isinstance(spec, int) or text.startswith("/dev/") or not _exists(text):
        return None
    path = Path(text)
    if path.is_dir():
        return readable(text)
    return readable(path) if path.is_file() else None


def _streamed(spec: SourceSpec) -> str | None:
    """Return the name of a camera, stream or pipeline, which may open later; None for anything else."""
    text = str(spec)
    if isinstance(spec, int):
        return f"camera {spec}"
    if " ! " in text:
        return f"gstreamer:{text.split()[0]}"
    return without_credentials(text) if "://" in text or text.startswith("/dev/") else None


def _videos_in(spec: SourceSpec) -> list[Path]:
    """Return the videos of a folder, in natural order; else none. Raises DferError for a folder with images as well."""
    if isinstance(spec, int) or not _exists(str(spec)) or not Path(spec).is_dir():
        return []
    files = [file for file in Path(spec).iterdir() if not _is_litter(file.name)]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()]
    if videos and any(_is_image(file) for file in files):
        raise DferError(
            f"{readable(Path(spec))}: holds videos and images, which are other sources; name them apart, by patterns"
        )
    return sorted(videos, key=_by_name)


def _in_time(connect: Callable[[], Opened | None], failure: str, aside: bool = True) -> Opened:
    """Call `connect` with a time limit. aside: in another thread, so that Ctrl-C works meanwhile."""
    try:
        opened = call_within(_OPENING, connect, "opening", _release) if aside else connect()
    except TimeoutError:
        opened = None
    if opened is None:
        raise DferError(failure)
    return opened


def _release(opened: Capture | Film | None) -> None:
    if opened is not None:
        opened.release()


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False


def _compare(name: str, capture: Capture, size: tuple[int, int] | None, fps: float | None, warn: Warn) -> None:
    """Warn when a camera does not deliver what was requested."""
    if size and capture.size != size:
        warn(f"{name}: gives {capture.size[0]}×{capture.size[1]} pixels, not the {size[0]}×{size[1]} asked for")
    if fps and capture.rate and abs(capture.rate - fps) > 0.05 * fps:
        warn(f"{name}: gives {capture.rate:g} frames per second, not the {fps:g} asked for")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_litter(name: str) -> bool:
    """Return whether systems leave such files beside images: hidden, thumbnails, folders of archives and servers."""
    return name.startswith(".") or name in _LITTER


def _by_name(path: Path) -> list[tuple[int, str]]:
    return natural_order(str(path))


def _is_pattern(spec: SourceSpec) -> bool:
    """Return whether `spec` has wildcards, and is neither a URL nor an existing file."""
    text = str(spec)
    if isinstance(spec, int) or "://" in text or " ! " in text or _exists(text):
        return False
    return glob.has_magic(text) or _NUMBER.search(Path(text).name) is not None


def _matches(pattern: str) -> list[Path]:
    """Return the files of a pattern in natural order: either all images or none, at least one."""
    if number := _NUMBER.search(Path(pattern).name):
        folder, name = Path(pattern).parent, Path(pattern).name
        shape = re.compile(re.escape(name[: number.start()]) + r"(\d+)" + re.escape(name[number.end() :]))
        candidates = folder.iterdir() if folder.is_dir() else ()
        found = [file for file in candidates if (at := shape.fullmatch(file.name)) and number[0] % int(at[1]) == at[1]]
    else:
        found = [Path(file) for file in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (for absolute patterns)
    asked = Path(pattern).parts
    found = [file for file in found if not any(_is_litter(part) and part not in asked for part in file.parts)]
    if not found:
        raise DferError(f"{readable(pattern)}: matches no file")
    if len({_is_image(file) for file in found}) > 1:
        raise DferError(
            f"{readable(pattern)}: matches images and other files; images are one source, so name them apart"
        )
    return sorted(found, key=_by_name)
