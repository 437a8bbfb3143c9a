"""What every source is and gives."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError, ParameterError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".avif"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
"""Of pictures that cameras and telephones make and OpenCV does not read."""

Warn = Callable[[str], object]
"""Told, in one line, about trouble that is not an error; by whichever thread meets it."""


class Decoded(Protocol):
    """A picture in its decoder's own format. shape: [H,W,3], of the RGB image that `convert` makes of it."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def convert(self) -> NDArray[np.uint8]:
        """RGB uint8 [H,W,3]. Any thread may ask."""


class Frame:
    """One picture of a source.

    image: RGB uint8 [H,W,3]. Video frames are converted to RGB on first use; many between two samples never are.
    shape: of `image`, at no cost.
    index: in the source, from 0. time: media seconds since the first frame, always rising.
    decode: seconds that reading and decoding took, and conversion, once it is done; for live sources without the wait
    for the picture to come (a network stream is decoded while waiting, so there it is the conversion only).
    arrived: `time.monotonic()` at which it could first be processed: live, when decoded; from a file, when taken.
    cut: it does not follow from the frame before, so tracks and windows begin anew.
    file: of an image its own name, else "".

    >>> from dfer.runtime import open_source
    >>> with open_source("clip.mp4") as source:
    ...     first, second, *_ = source
    >>> first.image.shape, second.index, round(second.time, 3)
    ((360, 640, 3), 1, 0.042)
    """

    def __init__(
        self,
        image: NDArray[np.uint8] | Decoded,
        index: int,
        time: float,
        decode: float = 0.0,
        arrived: float = 0.0,
        cut: bool = False,
        file: str = "",
    ) -> None:
        self._image = image
        self.index, self.time, self.decode, self.arrived, self.cut, self.file = index, time, decode, arrived, cut, file

    @property
    def image(self) -> NDArray[np.uint8]:
        image = self._image  # once: another thread may put the converted one there
        if not isinstance(image, np.ndarray):
            start = perf_counter()
            self._image = image = image.convert()
            self.decode += perf_counter() - start
        return image

    @property
    def shape(self) -> tuple[int, ...]:
        return self._image.shape

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: the image, since decoders' own pictures cannot be pickled."""
        return vars(self) | {"_image": self.image}

    @property
    def photo(self) -> bool:
        """Whether it is a photograph that stands alone, with people of its own."""
        return self.cut and self.file != ""


class Source(ABC):
    """Frames in order, once. Use as a context manager.

    name: for people and result files; holds no credentials.
    rate: frames per second where the source tells, else None. count: frames announced, else None.
    live: whether frames that are not taken in time are dropped. reconnecting: lost, and being looked for again.
    unread: names of photographs that could not be read so far, and why.
    """

    name: str
    rate: float | None
    count: int | None
    live: bool = False
    reconnecting: bool = False
    unread: Mapping[str, str] = MappingProxyType({})
    warn: Warn = staticmethod(lambda _: None)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames; of a live source the newest each time one is asked for."""

    def frames(self) -> Iterator[Frame]:
        """Every frame, read by the thread that asks; what a `SourceReader` reads."""
        return iter(self)

    def close(self) -> None:  # noqa: B027 (images hold nothing open)
        """Let go of the file or device. Any thread may call it, at any time, and it does not wait."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_image(image: object, parameter: str) -> NDArray[np.uint8]:
    """A picture of the user's own, contiguous in memory. Raises ParameterError unless it is RGB uint8 [H,W,3]."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return np.ascontiguousarray(image)
    if image is None:
        raise ParameterError(
            parameter, "is None, which cv2.imread gives for what it cannot read; check the file's name"
        )
    given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ParameterError(
        parameter,
        f"must be a NumPy array uint8 [height, width, 3], channels in the order red, green, blue; it is {given} "
        "(OpenCV reads blue first: cv2.cvtColor(image, cv2.COLOR_BGR2RGB))",
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts "2.jpg" before "10.jpg"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def folders_below(root: Path, but: Path | None = None) -> Iterator[tuple[Path, list[Path]]]:
    """`root` and the folders below it, each with what it holds beside folders. Links to folders are followed, hidden
    names left out; a folder to which several names lead comes once, a link's last.

    but: a folder that is left out, with all in it.
    Raises DferError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what is not there holds nothing
            raise DferError(f"{readable(error.filename)}: this folder cannot be read ({error.strerror})") from error

    seen = {str(above) for above in Path(os.path.realpath(root)).parents}  # for links that lead upward
    if but is not None:
        seen.add(os.path.realpath(but))
    starts = [root]
    for start in starts:  # which grows: links come after what lies below `root` itself
        for place, folders, names in os.walk(start, onerror=refuse, followlinks=True):
            here = Path(place)
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            visible = [here / name for name in folders if name[0] != "." and name != "lost+found"]  # root's, of a disk
            starts += [folder for folder in visible if folder.is_symlink()]
            folders[:] = [folder.name for folder in visible if not folder.is_symlink()]
            yield here, [here / name for name in names if name[0] != "."]


def readable(path: str | os.PathLike[str]) -> str:
    """A file's name as text for people and result files; bytes of it that are not UTF-8 as in "\\xe9"."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def open_file(path: Path) -> IO[bytes]:
    """A file to read. Raises DferError that says why it cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DferError(f"{readable(path)}: {error.strerror}") from error
