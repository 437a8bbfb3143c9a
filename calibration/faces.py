"""Faces to calibrate on, through the runtime's own detector and alignment, and those kept apart to judge the result."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import DferError
from ..runtime.faces.alignment import align
from ..runtime.faces.detection import FaceDetector
from ..runtime.sources import IMAGE_SUFFIXES, open_source, read_image

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
MINIMUM = 500
"""Frames below which ranges say little about faces to come."""
MOST = 512
"""Frames used at most for ranges, and as many for judging, evenly spread over what there is."""
RATE = 8.0
"""Frames taken per second of video, as the runtime samples."""
PIECE = 16
"""Frames of a video that make one clip."""

Heard = Callable[[str], object]


@dataclass(frozen=True)
class FaceClips:
    """Crops uint8 [N,S,S,3] RGB in clips; `lengths` says how many each clip has, in order (1 for a photograph).

    labels: what each clip shows, None where nobody said.
    """

    frames: NDArray[np.uint8]
    lengths: tuple[int, ...]
    labels: tuple[str | None, ...]

    def windows(self, window: int) -> NDArray[np.int64]:
        """Which frames make each clip's window of T: int64 [clips, T], evenly spaced, a photograph T times."""
        starts = np.cumsum((0, *self.lengths[:-1]))
        spread = [np.linspace(0, length - 1, window).round() for length in self.lengths]
        return (starts[:, None] + np.stack(spread)).astype(np.int64)

    @property
    def fingerprint(self) -> str:
        """sha256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).tobytes()).hexdigest()


@dataclass(frozen=True)
class _Item:
    """A photograph that is listed, or a piece of video that is cut out already. origin: file it is from."""

    origin: Path
    label: str | None = None
    held_out: bool | None = None
    crops: NDArray[np.uint8] | None = None

    @property
    def length(self) -> int:
        return 1 if self.crops is None else len(self.crops)


def load_faces(
    place: Path, size: int, minimum: int = MINIMUM, progress: Heard = lambda _: None
) -> tuple[FaceClips, FaceClips]:
    """Faces for ranges, and faces kept apart for judging, as crops of `size` pixels.

    place: a folder of videos (their largest face is followed), a folder of face crops, or a CSV of crops with columns
        image[,label[,split]], images beside it or in its folder `images/`. Rows of another split than "train" are the
        ones kept apart; without a split, and elsewhere, every fifth clip is.
    heard: told, in words, what is being read.
    Raises DferError where there is nothing to read, or when it holds fewer than `minimum` frames.
    """
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        items = _film_items(videos, size, progress) if videos else []
        if not videos:
            items = [_Item(file) for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    elif place.is_file() and place.suffix.lower() == ".csv":
        items = _listed_items(place)
    else:
        raise DferError(f"--calib {place}: no such folder or CSV; name videos, face crops, or a list of crops")
    check_enough(place, sum(item.length for item in items), minimum)
    measured, kept = _apart(items)
    progress(f"reading faces of {place}")
    return _load(_spread(measured), size), _load(_spread(kept), size)


def check_enough(place: object, count: int, minimum: int) -> None:
    """Raise DferError when a place gives fewer frames with a face than the minimum, which is at least 2."""
    if count < max(minimum, 2):
        raise DferError(
            f"--calib {place}: {count} frames with a face, {max(minimum, 2)} are needed; INT8 ranges measured on few "
            "faces fail on others. Give more (or fewer knowingly, with --calib-min)"
        )


def _listed_items(table: Path) -> list[_Item]:
    items = []
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                named = [folder / row["image"] for folder in (table.parent, table.parent / "images")]
                found = next((path for path in named if path.is_file()), None)
                if found is None:
                    raise DferError(f"--calib {table}: no such image: {named[0]}")
                split = row.get("split")
                items.append(_Item(found, row.get("label") or None, split != "train" if split else None))
    except OSError as error:
        raise DferError(f"--calib {table}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DferError(f"--calib {table}: not a list of crops ({error}); columns are image[,label[,split]]") from error
    return items


def _film_items(videos: Iterable[Path], size: int, progress: Heard) -> list[_Item]:
    """Pieces of each video in which a face was found."""
    detector, items = FaceDetector(), []
    for video in videos:
        progress(f"finding faces in {video.name}")
        crops, period = [], -1
        with open_source(video) as source:
            for frame in source:
                if int((frame.time + 1e-3) * RATE) == period:
                    continue
                period = int((frame.time + 1e-3) * RATE)
                faces = detector.detect(frame.image)
                if faces:
                    crops.append(align(frame.image, faces[0].landmarks, size))
        for start in range(0, len(crops), PIECE):
            items.append(_Item(video, crops=np.stack(crops[start : start + PIECE])))
    return items


def _apart(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Those to measure on and those to judge on: as listed, else every fifth video, or clip if fewer."""
    if any(item.held_out for item in items) and any(item.held_out is False for item in items):
        return [item for item in items if not item.held_out], [item for item in items if item.held_out]
    groups = [list(group) for _, group in groupby(items, key=lambda item: item.origin)]
    if len(groups) < 5:
        groups = [[item] for item in items]
    if len(groups) < 2:
        groups = [[_part(items[0], slice(0, -1))], [_part(items[0], slice(-1, None))]]
    every = min(5, len(groups))
    measured = [item for place, group in enumerate(groups) if place % every != every - 1 for item in group]
    return measured, [item for place, group in enumerate(groups) if place % every == every - 1 for item in group]


def _part(item: _Item, part: slice) -> _Item:
    assert item.crops is not None  # there are at least two frames and one item, so it is a video's
    return _Item(item.origin, item.label, crops=item.crops[part])


def _spread(items: list[_Item]) -> list[_Item]:
    """At most `MOST` frames, evenly spread over the items."""
    wanted = max(1, int(MOST / (sum(item.length for item in items) / len(items))))
    if len(items) <= wanted:
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, wanted).round().astype(int)]


def _load(items: list[_Item], size: int) -> FaceClips:
    crops = [_read_crop(item.origin, size)[None] if item.crops is None else item.crops for item in items]
    return FaceClips(np.concatenate(crops), tuple(map(len, crops)), tuple(item.label for item in items))


def _read_crop(path: Path, size: int) -> NDArray[np.uint8]:
    image = read_image(path)
    if image is None:
        raise DferError(f"cannot read image {path}")
    height, width = image.shape[:2]
    if max(height, width) > 1.25 * min(height, width):
        raise DferError(f"{path} is {width}×{height}, not a square face crop; for whole scenes give videos")
    shrinks = min(height, width) > size
    crop = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)
