"""Clips on disk, as folders of frames or video files; 16 frames are sampled from each."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from ...runtime.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_order, open_source, read_image
from ..digests import content_digests, damaged_pictures, film_sizes, picture_sizes
from . import WINDOW
from .augmentation import plain_view
from .lists import Entry, few_missing

RATE = "rate.txt"
"""File with the frames per second of a folder of frames."""
_IMAGE_ENDINGS = tuple(IMAGE_SUFFIXES)


class VideoClips:
    """Listed clips of aligned faces, each a folder of frames or a video file, read on demand.

    entries: the clips. folder: the base of their relative paths.
    size: side of the returned frames; frames of another size or shape are resized to size×size.
    max_missing: share of the clips that may be missing or empty (no readable frame), and of the pictures in folders
    that may be damaged. Those are left out, and `warn` is called. For that, all pictures are decoded the first time.
    `warn` is also told of clips that are not square: they may show more than a face.
    progress: called with the number of folders done, and the total.

    paths, names (as listed), groups (person or film, or None), seconds and labels are parallel; `missing` and
    `damaged` are the clips and pictures that are left out.
    Raises DferError if too many are missing or damaged, naming the first ones; `frames` raises it for a clip that
    cannot be read any more.
    """

    jitter = 0.0
    shares: NDArray[np.float32] | None = None

    def __init__(
        self,
        entries: Sequence[Entry],
        folder: Path,
        classes: tuple[str, ...],
        size: int = 128,
        max_missing: float = 0.01,
        warn: Callable[[str], object] = lambda _: None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self.classes = classes
        self.paths: list[Path] = []
        self.names: list[str] = []
        self.groups: list[str | None] = []
        self.seconds: list[float | None] = []
        self.missing: list[Path] = []
        self._counts: list[int] = []
        self._size = size
        labels: list[int] = []
        firsts: list[Path] = []
        located = [locate(folder, entry.clip) for entry in entries]
        pictures = {path: image_files(path) for path in located if path.is_dir()}
        self.damaged = _find_damaged([files for files in pictures.values() if files], max_missing, warn, progress)
        for entry, path in zip(entries, located, strict=True):
            kept = [file for file in pictures.get(path, ()) if file not in self.damaged]
            count, seconds = folder_length(path, len(kept)) if path in pictures else film_length(path)
            if not count:
                self.missing.append(path)
                continue
            self.paths.append(path)
            self.names.append(entry.clip)
            self.groups.append(entry.group)
            self.seconds.append(seconds)
            self._counts.append(count)
            firsts.append(kept[0] if path in pictures else path)
            labels.append(classes.index(entry.label))
        if self.missing or not labels:
            warn(few_missing("clips", self.missing, len(entries), max_missing))
        _tell_oblong(firsts, warn)
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the clips' content, order and labels, and the frame size; independent of their paths."""
        files = [image_files(path, self.damaged) if path.is_dir() else [path] for path in self.paths]
        listed = zip(content_digests(files), self.labels.tolist(), strict=True)
        return hashlib.sha256(f"{self._size} {list(listed)}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        return self.numbered(index, rng)[0]

    def numbered(
        self, index: int, rng: np.random.Generator | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        path = self.paths[index]
        if path.is_dir():
            return _read_images(path, image_files(path, self.damaged), rng, self._size)
        return _read_video(path, self._counts[index], rng, self._size)

    def every_frame(self, index: int) -> Iterator[NDArray[np.uint8]]:
        path = self.paths[index]
        if path.is_dir():
            for file in image_files(path, self.damaged):
                yield _fit(read_picture(file), self._size)
        else:
            with open_source(path) as source:
                for frame in source:
                    yield _fit(frame.image, self._size)

    def has_frames(self, index: int, count: int) -> bool:
        if count == self._counts[index] or self.paths[index].is_dir():
            return count == self._counts[index]
        with open_source(self.paths[index]) as source:  # it may have fewer frames than its header says
            return count == sum(1 for _ in source)


def is_oblong(size: Sequence[int]) -> bool:
    """Return whether a picture of this width and height is too far from a square to be the crop of a face."""
    return max(size) > 1.25 * min(size)


def choose_frames(count: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Return which of `count` frames make the window: int64 [WINDOW], in ascending order.

    The clip is cut into WINDOW segments of equal length; each gives its centre frame, or with `rng` a random one.
    A clip with fewer frames gives all of them, then repeats the last.
    """
    if count < WINDOW:
        return np.minimum(np.arange(WINDOW), count - 1)
    edges = np.arange(WINDOW + 1) * count // WINDOW
    first, end = edges[:-1], edges[1:]
    return first + (end - first) // 2 if rng is None else rng.integers(first, end)


def locate(folder: Path, clip: str) -> Path:
    """Return the path of a listed clip under `folder`; for a missing video, the folder of frames of the same name."""
    path = folder / clip
    frames = path.with_suffix("")
    return frames if path.suffix.lower() in VIDEO_SUFFIXES and not path.exists() and frames.is_dir() else path


def folder_length(path: Path, count: int) -> tuple[int, float | None]:
    """Return `count`, the folder's number of frames, and its length in seconds if its rate is known."""
    rate = folder_rate(path)
    return count, count / rate if rate else None


def folder_rate(path: Path) -> float | None:
    """Return a folder's frames per second from its rate.txt, which `dfer-prepare` writes; None without that file.

    Raises DferError if it does not hold a number above 0.
    """
    try:
        rate = float((path / RATE).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DferError(f"{path / RATE}: not a number of frames per second") from error
    if not 0 < rate < math.inf:
        raise DferError(f"{path / RATE}: {rate:g} frames per second; a number above 0 is expected")
    return rate


def film_length(path: Path) -> tuple[int, float | None]:
    """Return a video's number of frames (from its header, else counted; 0 if unreadable), and its seconds if known."""
    try:
        with open_source(path) as source:
            count = source.count or sum(1 for _ in source)
            return count, count / source.rate if source.rate else None
    except DferError:
        return 0, None


def _image_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as files:
            names = [file.name for file in files]
    except OSError as error:
        raise DferError(f"{folder}: {error.strerror or error}") from error
    return [name for name in names if name.lower().endswith(_IMAGE_ENDINGS) and not name.startswith(".")]


def image_files(folder: Path, damaged: Iterable[Path] = ()) -> list[Path]:
    """Return the frames of a folder in natural order, without damaged ones."""
    files = (folder / name for name in sorted(_image_names(folder), key=natural_order))
    return [file for file in files if file not in damaged]


def _find_damaged(
    pictures: Sequence[Sequence[Path]],
    allowed: float,
    warn: Callable[[str], object],
    progress: Callable[[int, int], object],
) -> frozenset[Path]:
    """Return the pictures that cannot be read, and warn about them. Raises DferError if there are too many."""
    found = damaged_pictures(pictures, progress)
    damaged = [files[0].with_name(name) for files, names in zip(pictures, found, strict=True) for name in names]
    if damaged:
        warn(few_missing("pictures of clips", damaged, sum(map(len, pictures)), allowed))
    return frozenset(damaged)


def _tell_oblong(files: Sequence[Path], warn: Callable[[str], object]) -> None:
    """Warn about clips, each given by its first picture or its video, that would be squeezed to squares."""
    films = [file for file in files if not file.name.lower().endswith(_IMAGE_ENDINGS)]
    pictures = [file for file in files if file.name.lower().endswith(_IMAGE_ENDINGS)]
    sizes = zip([*pictures, *films], [*picture_sizes(pictures), *film_sizes(films)], strict=True)
    oblong = [(file, size) for file, size in sizes if size and is_oblong(size)]
    if oblong:
        file, (width, height) = oblong[0]
        warn(
            f"{len(oblong)} of {len(files)} clips are no square crops of a face and are squeezed, such as {file}, "
            f"{width}×{height}; cut the faces out first: dfer-prepare VIDEOS FACES"
        )


def _read_images(
    folder: Path, files: Sequence[Path], rng: np.random.Generator | None, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not files:
        raise DferError(f"{folder}: this clip has lost its frames")
    numbers = choose_frames(len(files), rng)
    kept = {index: _fit(read_picture(files[index]), size) for index in set(numbers.tolist())}
    return np.stack([kept[index] for index in numbers.tolist()]), numbers


def read_picture(file: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB [H,W,3] (grey ones as three equal channels). Raises DferError if it is not an image."""
    image = read_image(file)
    if image is None:
        raise DferError(f"{file}: not an image that OpenCV can read")
    return image


def _read_video(
    path: Path, count: int, rng: np.random.Generator | None, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    numbers = choose_frames(count, rng)
    chosen = numbers.tolist()
    kept: dict[int, NDArray[np.uint8]] = {}
    read = 0
    with open_source(path) as source:
        for frame in source:
            read = frame.index + 1
            if frame.index in chosen:
                kept[frame.index] = _fit(frame.image, size)
            if frame.index == chosen[-1]:
                return np.stack([kept[index] for index in chosen]), numbers
    # It has fewer frames than its header says: choose again among those that were read.
    return _read_video(path, read, rng, size)


def _fit(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    view: NDArray[np.uint8] = plain_view(image[None], size)[0]
    return view
