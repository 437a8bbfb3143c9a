"""User-supplied face boxes that replace the detector: a CSV of boxes, optionally with track ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError
from ..sources.tables import read_rows
from .alignment import TEMPLATE, align
from .detection import Box, Face, FaceDetector, GivenFace

_TIME_SLACK = 1e-3  # seconds; times in files are rounded
_CARRIED = 2.0  # seconds for which a face stays present after its last box
_FARTHEST = 1e6  # pixels, either way; no image is that large
_LATEST = 1e9  # seconds or frames


@dataclass(frozen=True)
class _Row:
    line: int  # in the file, from 1
    box: Box
    id: int | None


class GivenBoxes:
    """The boxes of one source, as a replacement for the detector. Frames must come in order.

    A row belongs to the frame with its number or, in a file without numbers, to the first frame at or after its time.
    Of several moments in one frame each track's last counts, or without tracks the last moment. Two seconds without a
    row mean that nobody is there.
    """

    def __init__(self, place: str, rows: Mapping[float, list[_Row]], by_frame: bool) -> None:
        self._place, self._by_frame = place, by_frame
        self._moments = sorted(rows)
        self._rows = rows
        self._next = 0  # index of the next moment
        self._due: list[_Row] = []
        self._last = math.inf  # time of the last frame with boxes, until their faces are gone
        self._used = False
        self._detector = FaceDetector(min_score=0.5)

    def should_detect(self, index: int, time: float, wanted: bool = True, anew: bool = False) -> bool:
        """Return whether the file has boxes for this frame. Call it once per frame, in order, then `detect`."""
        now = index if self._by_frame else time + _TIME_SLACK
        self._due = []
        while self._next < len(self._moments) and self._moments[self._next] <= now:
            moment = self._moments[self._next]
            self._next += 1
            if not self._by_frame or moment == index:  # rows of dropped frames never match
                newer = self._rows[moment]
                known = {row.id for row in newer}
                self._due = [row for row in self._due if row.id not in known] + newer
        gone = time - self._last > _CARRIED
        if self._due:
            self._used, self._last = True, time
        elif gone:
            self._last = math.inf
        return bool(self._due) or gone

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in the boxes for this RGB image [H,W,3], in the file's order.

        Landmarks come from YuNet on the enlarged box; if it finds no face, they are those of an average face in the
        box. The score is 1, since the user vouches for them. Raises DferError when a box lies outside the image.
        """
        return [self._face(image, row) for row in self._due]

    def finish(self) -> None:
        """Raise DferError if the source ended and no row matched any of its frames."""
        if not self._used:
            what = "frame" if self._by_frame else "second"
            raise DferError(
                f"{self._place}: no box is at a frame that was read; the rows are for {what}s {self._moments[0]:g} to "
                f"{self._moments[-1]:g}"
            )

    def _face(self, image: NDArray[np.uint8], row: _Row) -> GivenFace:
        x, y, width, height = row.box
        if x >= image.shape[1] or y >= image.shape[0] or x + width <= 0 or y + height <= 0:
            size = f"{image.shape[1]}×{image.shape[0]}"
            raise DferError(f"{self._place}, line {row.line}: the box lies outside the picture, which is {size}")
        return GivenFace(row.box, _landmarks_in(self._detector, image, row.box), 1.0, row.id)


def read_boxes(path: Path, sources: Sequence[str]) -> list[GivenBoxes]:
    """Read a CSV of boxes; return one `GivenBoxes` for each of `sources`, the names of this run's sources.

    Columns, in any order, others are ignored (so files written by dfer-run can be read): `frame` (from 0) or `time_s`
    (seconds), `frame` taking precedence; `x`, `y` (top left corner), `w`, `h` in pixels
    of the picture as it is read (with --rotate: rotated); optionally `track` (a whole
    number from 1, in all rows or in none), which fixes the ids, and `source`, required if there are several: the name,
    or its last part. Spreadsheets' variants of CSV are supported (see `read_rows`).

    Raises DferError, naming the line, for any other content, or if a source has no row.
    """
    lines = list(read_rows(path, ("x", "y", "w", "h")))
    if not lines:
        raise DferError(f"{path}: holds no boxes")
    columns = lines[0][1].keys()
    by_frame = "frame" in columns
    if not by_frame and "time_s" not in columns:
        raise DferError(f"{path}: the first line must name a column frame or time_s")
    if len(sources) > 1 and "source" not in columns:
        raise DferError(f"{path}: no column source, which tells whose box it is where several sources are read")
    when = "frame" if by_frame else "time_s"
    split: dict[str, dict[float, list[_Row]]] = {name: {} for name in sources}
    for number, line in lines:
        name = _owner(line["source"], sources) if "source" in columns else sources[0]
        moment, row = _read_row(path, number, line, when)
        if name is not None:
            split[name].setdefault(moment, []).append(row)
    for name, rows in split.items():
        if not rows:
            raise DferError(f"{path}: no row is for {name}")
        _check_ids(path, rows)
    return [GivenBoxes(str(path), split[name], by_frame) for name in sources]


def _owner(name: str, sources: Sequence[str]) -> str | None:
    """Return the source that a row belongs to; None if it is not read in this run."""
    if name in sources:
        return name
    alike = [source for source in sources if PurePath(source).name == PurePath(name).name]
    return alike[0] if len(alike) == 1 else None


def _read_row(path: Path, number: int, line: Mapping[str, str], when: str) -> tuple[float, _Row]:
    def value(name: str) -> float:
        text = line[name]
        try:
            result = float(text)
        except ValueError:
            result = math.nan
        if not math.isfinite(result):
            raise DferError(f"{path}, line {number}: {name} is {text[:40]!r}, which is not a number")
        return result

    moment = value(when)
    if not 0 <= moment <= _LATEST or (when == "frame" and moment != round(moment)):
        raise DferError(f"{path}, line {number}: {when} is {moment:g}; it counts from 0, to {_LATEST:g} at most")
    x, y, width, height = (value(name) for name in ("x", "y", "w", "h"))
    if max(abs(x), abs(y), width, height) > _FARTHEST:
        raise DferError(
            f"{path}, line {number}: the box is at {x:g}, {y:g}, {width:g}×{height:g}; that is no picture's"
        )
    if min(width, height) < 1:
        raise DferError(f"{path}, line {number}: a box of {width:g}×{height:g} pixels holds no face")
    track = line.get("track", "")
    if track and not (track.isdecimal() and len(track) < 10 and int(track) > 0):
        raise DferError(f"{path}, line {number}: track is {track[:40]!r}; it must be a whole number from 1")
    return moment, _Row(number, (x, y, width, height), int(track) if track else None)


def _check_ids(path: Path, rows: Mapping[float, list[_Row]]) -> None:
    with_id = {row.id is not None for group in rows.values() for row in group}
    if len(with_id) > 1:
        bare = min(row.line for group in rows.values() for row in group if row.id is None)
        raise DferError(f"{path}, line {bare}: no track, though others have one; give it in all rows or in none")
    for group in rows.values():
        ids = [row.id for row in group if row.id is not None]
        if len(set(ids)) < len(ids):
            raise DferError(f"{path}, line {group[-1].line}: a track is twice at the same moment")


def align_box(detector: FaceDetector, image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Align the face that fills an RGB image [H,W,3]: [size,size,3]."""
    height, width = image.shape[:2]
    return align(image, _landmarks_in(detector, image, (0.0, 0.0, float(width), float(height))), size)


def _landmarks_in(detector: FaceDetector, image: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    """Return landmarks [5,2] of the face in a box; if the detector finds none, those of an average face there."""
    found = detector.refine_landmarks(image, box)
    return _average_landmarks(box) if found is None else found


def _average_landmarks(box: Box) -> NDArray[np.float32]:
    """Return the alignment template placed where an average face has it in a YuNet box."""
    x, y, width, height = box
    size = math.sqrt(width * height)
    centre = np.array([x + width / 2, y + height / 2 + 0.065 * size])
    return np.asarray((TEMPLATE - TEMPLATE.mean(axis=0)) * (0.011 * size) + centre, np.float32)
