"""The interfaces shared by all sources, `Source` and `Frame`, and helpers for files."""

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
from ..storage import readable as readable

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".avif"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
    | {".mts", ".m2ts", ".ts", ".3gp", ".ogv"}  # camcorders, recorders of streams, phones
)
"""What a folder's videos are known by; a file that is named may have any suffix."""
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"})
"""Image formats of cameras and phones that OpenCV does not read."""

Warn = Callable[[str], object]
"""Called with one line about a problem that is not an error, from the thread that finds it."""


class Decoded(Protocol):
    """A picture in its decoder's own format. shape: [H,W,3] of the RGB image that `convert` returns."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def convert(self) -> NDArray[np.uint8]:
        """Return RGB uint8 [H,W,3]. Any thread may call it."""


class Frame:
    """One image of a source.

    image: RGB uint8 [H,W,3]. Video frames are converted to RGB on first use; many between two samples never are.
    shape: of `image`, without converting.
    index: in the source, from 0. time: media seconds since the first frame, always rising.
    decode: seconds spent on reading, decoding and, once done, conversion. Live sources exclude the wait for the frame;
    a network stream is decoded during that wait, so for it this is the conversion only.
    arrived: `time.monotonic()` when it could first be processed: live, when decoded; from a file, when taken.
    cut: it does not continue the frame before, so tracks and windows start anew.
    file: for images, the file name, else "".

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
        image = self._image  # read once: another thread may replace it with the converted one
        if not isinstance(image, np.ndarray):
            start = perf_counter()
            self._image = image = image.convert()
            self.decode += perf_counter() - start
        return image

    @property
    def shape(self) -> tuple[int, ...]:
        return self._image.shape

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to copy or pickle: with the RGB image, since decoders' own pictures cannot be pickled."""
        return vars(self) | {"_image": self.image}

    @property
    def photo(self) -> bool:
        """Whether it is a photograph, unrelated to the images before and after it."""
        return self.cut and self.file != ""


class Source(ABC):
    """Frames in order, once. Use as a context manager.

    name: for display and result files; holds no credentials.
    rate: frames per second if the source reports it, else None. count: frames announced, else None.
    live: whether frames not taken in time are dropped. reconnecting: whether the connection is lost and being retried.
    unread: names of photographs that could not be read so far, and why.
    rotation: degrees clockwise by which its images are already rotated.
    photos: whether its images are known to be photographs, without times.
    """

    name: str
    rate: float | None
    count: int | None
    live: bool = False
    photos: bool = False
    reconnecting: bool = False
    rotation: int = 0
    unread: Mapping[str, str] = MappingProxyType({})
    warn: Warn = staticmethod(lambda _: None)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames; for live sources, each step returns the newest."""

    def frames(self) -> Iterator[Frame]:
        """Iterate over all frames, reading in the calling thread; used by `SourceReader`."""
        return iter(self)

    def close(self) -> None:  # noqa: B027 (images hold nothing open)
        """Release the file or device. Any thread may call it at any time; it does not wait."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_image(image: object, parameter: str) -> NDArray[np.uint8]:
    """Return the user's image, contiguous in memory. Raises ParameterError unless it is RGB uint8 [H,W,3]."""
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
    """Yield `root` and the folders below it, each with its files. Links to folders are followed, hidden names skipped;
    a folder reachable by several names comes once, links last.

    but: a folder to skip, with all in it.
    Raises DferError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a missing folder holds nothing
            raise DferError(f"{readable(error.filename)}: this folder cannot be read ({error.strerror})") from error

    seen = {str(above) for above in Path(os.path.realpath(root)).parents}  # against links to parent folders
    if but is not None:
        seen.add(os.path.realpath(but))
    starts = [root]
    for start in starts:  # grows: links come after everything below `root` itself
        for place, folders, names in os.walk(start, onerror=refuse, followlinks=True):
            here = Path(place)
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            visible = [here / name for name in folders if name[0] != "." and name != "lost+found"]  # only root reads it
            starts += [folder for folder in visible if folder.is_symlink()]
            folders[:] = [folder.name for folder in visible if not folder.is_symlink()]
            yield here, [here / name for name in names if name[0] != "."]


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading. Raises DferError with the reason if it cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DferError(f"{readable(path)}: {error.strerror}") from error
