"""Faces to calibrate and judge on, wherever they are: in files, as `calibration` reads them, or in a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..calibration.faces import MOST, FaceClips, check_enough, load_faces
from ..train.data import ClipSet
from ..train.data.augmentation import plain_view
from ..train.data.choice import DataChoice

FRAMES = 4
"""Frames taken of each clip of a data set: neighbours say little that is new, other people and films do."""

Heard = Callable[[str], object]


def read_faces(source: Path | DataChoice, size: int, minimum: int, progress: Heard) -> tuple[FaceClips, FaceClips]:
    """Faces for ranges and faces kept apart for judging, crops of `size` pixels, as `load_faces` gives them.

    source: a folder or CSV, or a data set, whose training clips are measured and whose test clips, with their labels,
    judge: at most `MOST` frames of either, spread evenly over its clips. Raises DferError like `load_faces`.
    """
    if isinstance(source, Path):
        return load_faces(source, size, minimum, progress)
    progress(f"reading faces of {source.name}")
    splits = source.open("train"), source.open("test")
    check_enough(f"{source.name} in {source.root}", FRAMES * sum(map(len, splits)), minimum)
    measured, kept = (_some_clips(clips, size) for clips in splits)
    return measured, kept


def _some_clips(clips: ClipSet, size: int) -> FaceClips:
    wanted = min(len(clips), MOST // FRAMES)
    picked = np.linspace(0, len(clips) - 1, wanted).round().astype(int)
    views = [plain_view(clips.frames(index), size) for index in picked]
    frames = [view[np.linspace(0, len(view) - 1, FRAMES).round().astype(int)] for view in views]
    return FaceClips(
        np.concatenate(frames), (FRAMES,) * wanted, tuple(clips.classes[clips.labels[index]] for index in picked)
    )
