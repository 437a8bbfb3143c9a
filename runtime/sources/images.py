"""Images as sources: a folder, a numbered sequence, a single image, a file with several images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from time import monotonic, perf_counter
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DferError
from .frames import IMAGE_SUFFIXES, Frame, Source, Warn, folders_below, open_file, readable

_COMPARED = 8
"""How many images of a folder, evenly spread, have their sizes compared."""
_CHUNK = 32  # images of an animation decoded at once
_SHORTEST, _USUAL = 10, 100
"""Milliseconds: delays up to the first are not meant literally; like browsers, use the second instead."""
_COLOR: int = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
"""Decode to RGB, or to BGR with OpenCV before 4.11, such as JetPack's (see `_rgb`)."""


class ImageFolder(Source):
    """Images in the given order, `rate` per second. An unreadable one still takes up its index and time.

    photos: whether each stands alone; then `rate` only spaces their times. A frame's `file` is the image's name, with
    its folder if there are several.
    Raises DferError when none can be read.
    """

    def __init__(self, paths: Sequence[Path], name: str, rate: float, warn: Warn, photos: bool = False) -> None:
        self.name, self.rate, self.count = name, None if photos else rate, len(paths)
        self.warn = warn
        self._paths, self._step, self.photos = paths, 1 / rate, photos
        self._root = os.path.commonpath([path.parent for path in paths]) or "."
        self._closed = False
        self.unread: dict[str, str] = {}
        if all(read_image(path) is None for path in paths):  # stops at the first good one
            others = ", nor the others" * (len(paths) > 1)
            raise DferError(f"{readable(paths[0])}: {why_unreadable(paths[0])}{others}")

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._closed:
                return
            start = perf_counter()
            image = read_image(path)
            if image is None:
                why = why_unreadable(path)
                self.warn(f"{readable(path)}: {why}; left out")
                if self.photos:
                    self.unread[readable(path)] = why
                continue
            spent, name = perf_counter() - start, readable(os.path.relpath(path, self._root))
            yield Frame(image, index, index * self._step, spent, monotonic(), cut=self.photos, file=name)

    def close(self) -> None:
        self._closed = True


class Animation(Source):
    """The images of an animated WebP with their delays, or the pages of a TIFF, `rate` per second.

    Raises DferError when not even the first can be decoded.
    """

    def __init__(self, path: Path, name: str, rate: float, warn: Warn) -> None:
        self.name, self.rate, self.count = name, rate, None
        self.warn = warn
        self._data = path.read_bytes()
        self._pause = 1 / rate
        self._closed = False
        self._webp = _is_animated_webp(self._data)
        if self._webp:
            self.rate = None
            if not hasattr(cv2, "imdecodeanimation"):
                raise DferError(f"{name}: an animated WebP needs OpenCV 4.12 or later; this is {cv2.__version__}")
        pictures = _animation(self._data) if self._webp else _pages(self._data)
        first = next(pictures, None)
        if first is None:
            cut = ", for it is cut short" if self._is_cut() else ""
            raise DferError(f"{name}: no picture of this file can be decoded{cut}")
        self._pictures = chain((first,), pictures)

    def __iter__(self) -> Iterator[Frame]:
        index, time, start = -1, 0.0, perf_counter()
        for index, (image, pause) in enumerate(self._pictures):
            if self._closed:
                return
            yield Frame(image, index, time, perf_counter() - start, monotonic())
            time, start = time + (pause or self._pause), perf_counter()
        if self._is_cut():
            self.warn(f"{self.name}: is cut short; {index + 1} pictures are good")

    def _is_cut(self) -> bool:
        """Return whether the file is shorter than it announces."""
        if self._webp:
            return 8 + int.from_bytes(self._data[4:8], "little") > len(self._data)
        return _tiff_goes_on(self._data)

    def close(self) -> None:
        self._closed = True


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """Read an image, upright, as RGB uint8 [H,W,3]; None if OpenCV cannot read it.

    Python reads the bytes, since a file name that is not UTF-8 would crash OpenCV and the process.
    """
    image = _decode(path, _COLOR)
    return None if image is None else _rgb(image)


def why_unreadable(path: Path) -> str:
    """Return what is wrong with an image for which `read_image` returned None."""
    try:
        cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), _COLOR)
    except (OSError, cv2.error) as error:
        if "MAX_IMAGE_PIXELS" in str(error):
            limit = int(os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 2**30)) / 1e6
            return f"more than {limit:g} million pixels; to read it, raise $OPENCV_IO_MAX_IMAGE_PIXELS"
    return "not an image that OpenCV can read"


def are_photos(paths: Sequence[Path]) -> str:
    """Return why these images, in order, are photographs rather than a film; "" if they may be a film.

    A film's images have one size, and names that differ only in their numbers.
    """
    if len({re.sub(r"\d+", "#", path.stem) for path in paths}) > 1:
        return "names that are not numbered"
    step = max(1, (len(paths) - 1) // (_COMPARED - 1))
    small = (_decode(path, cv2.IMREAD_REDUCED_GRAYSCALE_8) for path in [*paths[::step], paths[-1]])
    return "different sizes" if len({image.shape for image in small if image is not None}) > 1 else ""


def pictures_below(root: Path) -> Iterator[tuple[Path | None, list[Path]]]:
    """Yield the images below a folder, without hidden ones, grouped by folder: (folder, files) for a clip's frames,
    whose names are numbers as `dfer-prepare` writes them; (None, files) for photographs."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(path for _, files in folders_below(root) for path in files):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            folders.setdefault(path.parent, []).append(path)
    for folder, files in folders.items():
        clip = folder != root and all(file.stem.isdecimal() for file in files)
        yield folder if clip else None, files


def is_animation(path: Path) -> bool:
    """Return whether an image is an animated WebP or a TIFF of several pages."""
    with open_file(path) as file:
        data = file.read()
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            return len(list(zip(range(2), _pages(data), strict=False))) > 1
        except cv2.error:  # empty, or too many pixels
            return False
    return _is_animated_webp(data)


def is_film(path: Path) -> bool:
    """Return whether FFmpeg reads the image as a film: an AVIF sequence, or an animated PNG, which has an animation
    control chunk before the image data (PNG, third edition, 11.3.6.1)."""
    with open_file(path) as file:
        head, _, _ = file.read(1 << 16).partition(b"IDAT")
    return head[4:12] == b"ftypavis" or (head.startswith(b"\x89PNG") and b"acTL" in head)


def is_photo(spec: str | Path | int) -> bool:
    """Return whether a source is a file with a single picture."""
    path = Path(str(spec))
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not is_film(path) and not is_animation(path)


def _is_animated_webp(data: bytes) -> bool:
    """Return whether the flag in the extended header says so (RFC 9649, 2.7)."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & 2)


def _decode(path: Path, flags: int) -> NDArray[np.uint8] | None:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, flags) if data.size else None
    except (OSError, ValueError, cv2.error):  # ValueError: a null byte in the name
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image decoded with `_COLOR` as RGB."""
    if _COLOR != cv2.IMREAD_COLOR:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _animation(data: bytes) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Yield images and how long each is shown, in seconds."""
    row = np.frombuffer(data, np.uint8)[None]
    for start in count(0, _CHUNK):
        good, found = cv2.imdecodeanimation(row, start, _CHUNK)
        if not good:
            return
        for image, pause in zip(found.frames, np.ravel(found.durations), strict=True):
            code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
            milliseconds = pause if pause > _SHORTEST else _USUAL
            yield np.asarray(cv2.cvtColor(image, code), np.uint8), float(milliseconds) / 1000
        if len(found.frames) < _CHUNK:
            return


def _pages(data: bytes) -> Iterator[tuple[NDArray[np.uint8], float]]:
    row = np.frombuffer(data, np.uint8)
    if _COLOR == cv2.IMREAD_COLOR:  # such an old OpenCV cannot decode single pages either
        yield from ((_rgb(np.asarray(image, np.uint8)), 0.0) for image in cv2.imdecodemulti(row, _COLOR)[1])
        return
    for number in count():
        good, images = cv2.imdecodemulti(row, _COLOR, range=(number, number + 1))
        if not good or not images:
            return
        yield np.asarray(images[0], np.uint8), 0.0


def _tiff_goes_on(data: bytes) -> bool:
    """Return whether a TIFF's chain of pages leads beyond its end (TIFF 6.0, section 2)."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    plain = int.from_bytes(data[2:4], order) == 42  # BigTIFF has longer offsets
    place, seen = int.from_bytes(data[4:8], order) if plain else 0, set[int]()
    while place and place not in seen:
        seen.add(place)
        place += 2 + 12 * int.from_bytes(data[place : place + 2], order)  # the next offset follows the fields
        if place + 4 > len(data):
            return True
        place = int.from_bytes(data[place : place + 4], order)
    return False
