"""Load calibration faces, with the runtime's own detector and alignment, and held-out faces for testing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import DferError, ParameterError
from ..runtime.faces.alignment import align
from ..runtime.faces.detection import FaceDetector
from ..runtime.sources import VIDEO_SUFFIXES, open_source, pictures_below, read_image
from ..runtime.sources.tables import find_image, read_rows

MINIMUM = 500
"""With fewer frames, ranges say little about new faces."""
MAXIMUM = 512
"""Most frames used for ranges, and for the test, evenly spread over all."""
CLIP_LENGTH = 16
"""Frames of a video per clip."""

Report = Callable[[str], object]
"""Called with a line of text at each step."""


@dataclass(frozen=True)
class FaceClips:
    """Face crops, clip after clip.

    frames: uint8 [N,S,S,3] RGB. lengths: frames of each clip, in order (1 for a photograph).
    labels: the class of each clip, None if unknown.
    """

    frames: NDArray[np.uint8]
    lengths: tuple[int, ...]
    labels: tuple[str | None, ...]

    def windows(self, window: int) -> NDArray[np.int64]:
        """Return indices of a window of each clip's frames, int64 [clips, window], evenly spaced, perhaps repeated."""
        starts = np.cumsum((0, *self.lengths[:-1]))
        within = [np.linspace(0, length - 1, window).round() for length in self.lengths]
        return (starts[:, None] + np.stack(within)).astype(np.int64)


@dataclass(frozen=True)
class _Clip:
    """A photograph not yet read (crops: None), or a clip from a video. origin: its file. film: the folder of
    frames it belongs to, if any."""

    origin: Path
    label: str | None = None
    held_out: bool | None = None
    crops: NDArray[np.uint8] | None = None
    film: Path | None = None

    @property
    def length(self) -> int:
        return 1 if self.crops is None else len(self.crops)


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Return indices int64 of `count` of `total` frames, evenly spread from the first to the last, or of all if there
    are fewer. (The first `count` would often come from one video.)"""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def load_faces(
    faces: Path, size: int, minimum: int = MINIMUM, report: Report = lambda _: None, fps: float = 8.0
) -> tuple[FaceClips, FaceClips]:
    """Return calibration faces and held-out faces, at most `MAXIMUM` frames of each, as crops of `size` pixels.

    faces: a folder of videos (the largest face of each frame is taken), a folder of face crops, or a CSV of crops with
        columns image[,label[,split]], images beside it or in its folder `images/`. Rows of other splits than "train"
        are held out. Without a split, and in folders, every fifth video, folder of a video's frames (named by numbers)
        or photograph is held out; with fewer than five of these, every fifth clip.
    fps: frames taken per second of video, as many as the runtime will sample.
    Raises ParameterError for `faces` that do not exist or hold something else, and for `minimum` if there are fewer
    frames; DferError for an image that is not a face crop.
    """
    if faces.is_dir():
        files = sorted(file for file in faces.rglob("*") if file.is_file())
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        clips = _video_clips(videos, size, report, fps) if videos else []
        if not videos:
            clips = [_Clip(file, film=film) for film, pictures in pictures_below(faces) for file in pictures]
    elif faces.is_file() and faces.suffix.lower() == ".csv":
        clips = _listed_clips(faces)
    else:
        raise ParameterError("faces", f"{faces} is no folder or CSV; name videos, face crops, or a list of crops")
    check_enough(faces, sum(clip.length for clip in clips), minimum)
    calibration, held_out = _split(clips)
    report(f"reading faces of {faces}")
    return _load(_limit(calibration), size), _load(_limit(held_out), size)


def check_enough(faces: object, count: int, minimum: int) -> None:
    """Raise ParameterError if there are fewer frames with a face than `minimum`, or than 2."""
    if count < max(minimum, 2):
        raise ParameterError(
            "minimum",
            f"{count} frames with a face in {faces}, {max(minimum, 2)} are needed; INT8 ranges measured on few faces "
            "fail on others. Give more faces, or lower this knowingly",
        )


def _listed_clips(table: Path) -> list[_Clip]:
    clips = []
    for line, row in read_rows(table, ("image",), ("label", "split")):
        split = row.get("split")
        held_out = split != "train" if split else None
        clips.append(_Clip(find_image(table, row["image"], line), row.get("label") or None, held_out))
    return clips


def _video_clips(videos: Iterable[Path], size: int, report: Report, fps: float) -> list[_Clip]:
    """Return the faces found in each video's frames, in clips of `CLIP_LENGTH`."""
    detector, clips = FaceDetector(), []
    for video in videos:
        report(f"finding faces in {video.name}")
        crops, period = [], -1
        with open_source(video) as source:
            for frame in source:
                if int((frame.time + 1e-3) * fps) == period:
                    continue
                period = int((frame.time + 1e-3) * fps)
                faces = detector.detect(frame.image)
                if faces:
                    crops.append(align(frame.image, faces[0].landmarks, size))
        for start in range(0, len(crops), CLIP_LENGTH):
            clips.append(_Clip(video, crops=np.stack(crops[start : start + CLIP_LENGTH])))
    return clips


def _split(clips: list[_Clip]) -> tuple[list[_Clip], list[_Clip]]:
    """Split clips into calibration and held-out ones: as listed, else every fifth video, folder of a video's frames or
    photograph, or, of fewer, every fifth part of `CLIP_LENGTH` frames. Neighbouring frames are much alike.

    Raises DferError if all are listed as held out.
    """
    if all(clip.held_out for clip in clips):
        raise DferError("the faces for calibration are all of splits to be tested on; give some of split train")
    if any(clip.held_out for clip in clips) and any(clip.held_out is False for clip in clips):
        return [clip for clip in clips if not clip.held_out], [clip for clip in clips if clip.held_out]
    groups = [list(group) for _, group in groupby(clips, key=lambda clip: clip.film or clip.origin)]
    if len(groups) < 5:
        groups = [part for group in groups for part in _parts(group, CLIP_LENGTH)]
    if len(groups) < 2:
        groups = [[clip] for clip in clips]
    if len(groups) < 2:
        groups = [[_slice(clips[0], slice(0, -1))], [_slice(clips[0], slice(-1, None))]]
    every = min(5, len(groups))
    calibration = [clip for index, group in enumerate(groups) if index % every != every - 1 for clip in group]
    return calibration, [clip for index, group in enumerate(groups) if index % every == every - 1 for clip in group]


def _parts(group: list[_Clip], frames: int) -> Iterator[list[_Clip]]:
    """Yield groups of consecutive clips with about `frames` frames together."""
    most = max(1, frames // group[0].length)
    return (group[start : start + most] for start in range(0, len(group), most))


def _slice(clip: _Clip, frames: slice) -> _Clip:
    assert clip.crops is not None  # there are at least two frames and one clip, so it is of a video
    return _Clip(clip.origin, clip.label, crops=clip.crops[frames])


def _limit(clips: list[_Clip]) -> list[_Clip]:
    """Return clips with at most about `MAXIMUM` frames, evenly spread over all."""
    count = max(1, int(MAXIMUM / (sum(clip.length for clip in clips) / len(clips))))
    return [clips[index] for index in spread(len(clips), count)]


def _load(clips: list[_Clip], size: int) -> FaceClips:
    crops = [_read_crop(clip.origin, size)[None] if clip.crops is None else clip.crops for clip in clips]
    return FaceClips(np.concatenate(crops), tuple(map(len, crops)), tuple(clip.label for clip in clips))


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
