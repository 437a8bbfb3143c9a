"""Images as a source: a folder, a numbered sequence, a single one, one that holds several."""

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
"""Pictures of a folder whose sizes are compared, from the first to the last."""
_CHUNK = 32  # pictures of an animation that are decoded at once
_SHORTEST, _USUAL = 10, 100
"""Milliseconds: a shorter delay means nothing, and browsers then take the usual one."""
_COLOR: int = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
"""How pictures are decoded: to RGB, or to BGR by OpenCVs before 4.11, such as JetPack's (`_rgb`)."""


class ImageFolder(Source):
    """Images in the order given, `rate` of them to a second. One that cannot be read keeps its number and its time.

    photos: whether each stands alone; then `rate` only spaces their times. Frames carry the image's name, with its
    folder where there are several.
    Raises DferError when none can be read.
    """

    def __init__(self, paths: Sequence[Path], name: str, rate: float, warn: Warn, photos: bool = False) -> None:
        self.name, self.rate, self.count = name, None if photos else rate, len(paths)
        self.warn = warn
        self._paths, self._step, self._photos = paths, 1 / rate, photos
        self._root = os.path.commonpath([path.parent for path in paths]) or "."
        self._closed = False
        self.unread: dict[str, str] = {}
        if all(read_image(path) is None for path in paths):  # ends at the first good one
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
                if self._photos:
                    self.unread[readable(path)] = why
                continue
            spent, name = perf_counter() - start, readable(os.path.relpath(path, self._root))
            yield Frame(image, index, index * self._step, spent, monotonic(), cut=self._photos, file=name)

    def close(self) -> None:
        self._closed = True


class Animation(Source):
    """The pictures of an animated WebP with their delays, or the pages of a TIFF, `rate` to a second.

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
        """Whether more bytes were announced than there are."""
        if self._webp:
            return 8 + int.from_bytes(self._data[4:8], "little") > len(self._data)
        return _tiff_goes_on(self._data)

    def close(self) -> None:
        self._closed = True


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """An image, upright, as RGB uint8 [H,W,3]; None where OpenCV cannot read it.

    Its bytes are read by Python, for a name that is not UTF-8 would end OpenCV and with it the process.
    """
    image = _decode(path, _COLOR)
    return None if image is None else _rgb(image)


def why_unreadable(path: Path) -> str:
    """What is wrong with an image for which `read_image` gave None."""
    try:
        cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), _COLOR)
    except (OSError, cv2.error) as error:
        if "MAX_IMAGE_PIXELS" in str(error):
            limit = int(os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", 2**30)) / 1e6
            return f"more than {limit:g} million pixels; to read it, raise $OPENCV_IO_MAX_IMAGE_PIXELS"
    return "not an image that OpenCV can read"


def are_photos(paths: Sequence[Path]) -> str:
    """Why these pictures, in order, are photographs and no film; "" where they may be one.

    A film's have one size, and names that differ in their numbers only.
    """
    if len({re.sub(r"\d+", "#", path.stem) for path in paths}) > 1:
        return "names that are not numbered"
    step = max(1, (len(paths) - 1) // (_COMPARED - 1))
    small = (_decode(path, cv2.IMREAD_REDUCED_GRAYSCALE_8) for path in [*paths[::step], paths[-1]])
    return "different sizes" if len({image.shape for image in small if image is not None}) > 1 else ""


def pictures_below(root: Path) -> Iterator[tuple[Path | None, list[Path]]]:
    """The pictures below a folder, hidden ones left out, grouped by folder: (folder, files) for a clip's frames, whose
    names are numbers as `dfer-prepare` writes them; (None, files) for photographs."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(path for _, files in folders_below(root) for path in files):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            folders.setdefault(path.parent, []).append(path)
    for folder, files in folders.items():
        clip = folder != root and all(file.stem.isdecimal() for file in files)
        yield folder if clip else None, files


def is_animation(path: Path) -> bool:
    """Whether an image is an animated WebP or a TIFF of several pages."""
    with open_file(path) as file:
        data = file.read()
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            return len(list(zip(range(2), _pages(data), strict=False))) > 1
        except cv2.error:  # empty, or too many pixels
            return False
    return _is_animated_webp(data)


def is_film(path: Path) -> bool:
    """Whether an image is a film to FFmpeg: an AVIF of a sequence, or an animated PNG, which has an animation control
    chunk before the picture (PNG, third edition, 11.3.6.1)."""
    with open_file(path) as file:
        head, _, _ = file.read(1 << 16).partition(b"IDAT")
    return head[4:12] == b"ftypavis" or (head.startswith(b"\x89PNG") and b"acTL" in head)


def _is_animated_webp(data: bytes) -> bool:
    """By the flag in its extended header (RFC 9649, 2.7)."""
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & 2)


def _decode(path: Path, flags: int) -> NDArray[np.uint8] | None:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, flags) if data.size else None
    except (OSError, ValueError, cv2.error):  # a name with a null byte is none
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What was decoded with `_COLOR`, as RGB."""
    if _COLOR != cv2.IMREAD_COLOR:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _animation(data: bytes) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Pictures and how long each is shown, in seconds."""
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
    if _COLOR == cv2.IMREAD_COLOR:  # nor can this OpenCV decode a page alone
        yield from ((_rgb(np.asarray(image, np.uint8)), 0.0) for image in cv2.imdecodemulti(row, _COLOR)[1])
        return
    for number in count():
        good, images = cv2.imdecodemulti(row, _COLOR, range=(number, number + 1))
        if not good or not images:
            return
        yield np.asarray(images[0], np.uint8), 0.0


def _tiff_goes_on(data: bytes) -> bool:
    """Whether the chain of a TIFF's pages leads beyond its end (TIFF 6.0, section 2)."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    plain = int.from_bytes(data[2:4], order) == 42  # offsets of a BigTIFF are longer
    place, seen = int.from_bytes(data[4:8], order) if plain else 0, set[int]()
    while place and place not in seen:
        seen.add(place)
        place += 2 + 12 * int.from_bytes(data[place : place + 2], order)  # behind the fields is where the next lies
        if place + 4 > len(data):
            return True
        place = int.from_bytes(data[place : place + 4], order)
    return False
