"""Read calibration faces from files, with `calibration`, or from a training data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..calibration.faces import MAXIMUM, FaceClips, Report, check_enough, load_faces, spread
from ..train.data import ClipSet
from ..train.data.augmentation import plain_view
from ..train.data.choice import DataChoice

FRAMES = 4
"""Frames taken from each clip of a data set; frames of one clip are much alike, so few are enough."""


def read_faces(
    faces: Path | DataChoice,
    size: int,
    minimum: int,
    report: Report,
    fps: float = 8.0,
    warn: Report = lambda _: None,
) -> tuple[FaceClips, FaceClips]:
    """Return calibration faces and held-out faces, as crops of `size` pixels.

    faces: a folder or CSV for `load_faces`, or a data set: its training clips are for calibration, its test
        clips, with their labels, are held out; at most `MAXIMUM` frames of each, evenly spread over the clips.
    fps: frames taken per second of video. warn: called with a line about clips or pictures that a data set lacks.
    Raises what `load_faces` raises, and DferError for a data set that cannot be read.
    """
    if isinstance(faces, Path):
        return load_faces(faces, size, minimum, report, fps)
    report(f"reading faces of {faces.name}")
    splits = faces.open("train", size=size, warn=warn), faces.open("test", size=size, warn=warn)
    check_enough(f"{faces.name} in {faces.root}", FRAMES * sum(map(len, splits)), minimum)
    calibration, held_out = (_some_clips(clips, size) for clips in splits)
    return calibration, held_out


def _some_clips(clips: ClipSet, size: int) -> FaceClips:
    picked = spread(len(clips), MAXIMUM // FRAMES)
    views = [plain_view(clips.frames(index), size) for index in picked]
    return FaceClips(
        np.concatenate([view[spread(len(view), FRAMES)] for view in views]),
        (FRAMES,) * len(picked),
        tuple(clips.classes[clips.labels[index]] for index in picked),
    )
