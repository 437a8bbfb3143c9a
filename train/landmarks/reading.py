"""Landmarks of clips by name: read from a file, or detected in their frames."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError, ParameterError
from ...runtime.storage import atomic_write
from ..data import FilmClips
from ..data.subsets import Subset
from .detection import LandmarkDetector
from .layouts import reduce_mesh

Points = NDArray[np.float32]
_FAR = 2.0  # maximum distance of a landmark from the crop's middle, in its sides


@dataclass(frozen=True)
class Landmarks:
    """Points by clip name: float32 [F,P,2] for a clip of F frames, relative to the frame's width and height (0..1).

    P is 68 or 5 (`LAYOUTS`), the same for all clips. Frames without landmarks are NaN; clips without any may be absent.
    """

    points: Mapping[str, Points]

    @property
    def digest(self) -> str:
        """sha256 of clip names and points."""
        digest = hashlib.sha256()
        for name, points in sorted(self.points.items()):
            digest.update(f"{name}\0{points.shape}\0".encode() + points.tobytes())
        return digest.hexdigest()

    def report(self, names: Sequence[str]) -> str:
        """Return a sentence that says how many of the clips `names`, and of their frames, have landmarks.

        Raises DferError if none has any.
        """
        found = [np.isfinite(self.points[name][:, 0, 0]).tolist() for name in names if name in self.points]
        known = sum(map(any, found))
        if not known:
            raise DferError(f"landmarks: none of the {len(names)} clips to train on has any")
        frames = sum(map(len, found))
        lost = frames - sum(map(sum, found))
        told = f"landmarks: {known} of {len(names)} clips to train on have some, {len(names) - known} have none"
        return f"{told}; {lost} of {frames} frames have none"


class LandmarkedClips(Subset):
    """The clips `indices` (int64 [N]) of another clip set, with their landmarks, if any."""

    def __init__(self, clips: FilmClips, indices: NDArray[np.int64], landmarks: Landmarks) -> None:
        super().__init__(clips, indices)
        self._films, self._landmarks = clips, landmarks

    def traced(self, index: int, rng: np.random.Generator | None = None) -> tuple[NDArray[np.uint8], Points | None]:
        """Return `frames` of a clip and their landmarks [T,P,2], None if it has none."""
        frames, numbers = self._films.numbered(int(self._indices[index]), rng)
        points = self._landmarks.points.get(self.names[index])
        return frames, None if points is None else points[numbers]


def read_landmarks(path: Path, clips: FilmClips, indices: NDArray[np.int64]) -> Landmarks:
    """Read the landmarks of the clips `indices` from an .npz with an array [F,P,2] per clip name; ignore other names.

    F: the clip's frames. P: 5, 68, or a mesh of 468 or 478, reduced to 68. Coordinates are relative to the
    frame's width and height (0..1); a frame with NaN has no landmarks.
    Raises DferError, naming file and clip, for invalid arrays, and for a file that has none of the clips.
    """
    found: dict[str, Points] = {}
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise DferError(f"{path}: one array; landmarks are an .npz with an array for each clip (np.savez)")
        with content as file:
            there = set(file.files)
            for index in indices.tolist():
                name = clips.names[index]
                if name in there:
                    found[name] = _check(file[name], path, name, clips, index)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise DferError(f"{path}: no such file") from error
        raise DferError(f"{path}: not an .npz of landmarks that can be read ({error})") from error
    if not found:
        first = clips.names[int(indices[0])]
        near = get_close_matches(first, there, 1, cutoff=0.0) or ["nothing"]
        raise DferError(f"{path}: has none of the clips to train on, which are named as {first!r}, not {near[0]!r}")
    counts = {points.shape[1]: name for name, points in found.items()}
    if len(counts) > 1:
        listed = ", ".join(f"{name!r} has {count}" for count, name in sorted(counts.items()))
        raise DferError(
            f"{path}: clips have landmarks of different kinds ({listed}); let all have one number of points"
        )
    return Landmarks(found)


def _check(points: NDArray[np.generic], path: Path, name: str, clips: FilmClips, index: int) -> Points:
    where = f"{path}: clip {name!r}"
    if points.ndim != 3 or points.shape[2] != 2 or not np.issubdtype(points.dtype, np.floating):
        raise DferError(f"{where} has {points.dtype} {list(points.shape)}, not numbers [frames, points, 2]")
    if not clips.has_frames(index, len(points)):
        raise DferError(f"{where} has landmarks of {len(points)} frames, and not as many frames; find them anew")
    try:
        kept = reduce_mesh(points.astype(np.float32))
    except DferError as error:
        raise DferError(f"{where}: {error}") from error
    kept[~np.isfinite(kept).all(axis=(1, 2))] = np.nan  # all points of a frame or none
    known = kept[np.isfinite(kept[:, 0, 0])]
    if len(known) and np.abs(known - 0.5).max() > _FAR:
        raise DferError(
            f"{where} has coordinates up to {np.abs(known).max():g}; give shares of the frame's width and height, 0..1"
        )
    return kept


def find_landmarks(
    clips: FilmClips,
    indices: NDArray[np.int64],
    folder: Path,
    model: Path | None,
    workers: int = 2,
    progress: Callable[[int], object] = lambda clips: None,
) -> Landmarks:
    """Detect the landmarks of the clips `indices` in every frame with `LandmarkDetector(model)`, cached in `folder`.

    The cache is a folder per data and model with a file per clip, complete or absent, so that an interrupted run can
    resume and a later one need not search again. progress: called with 1 after each clip.
    Raises ParameterError for an unusable model, DferError for a file that is damaged or cannot be written.
    """
    count = LandmarkDetector(model).count
    weights = b"five" if model is None else model.read_bytes()
    key = hashlib.sha256(clips.fingerprint.encode() + hashlib.sha256(weights).digest()).hexdigest()[:16]
    store = folder / f"landmarks-{key}"
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError("features", f"{store}: {error.strerror or error}") from error
    own = threading.local()  # a detector for each thread

    def find_all(index: int) -> None:
        if _file(store, index).is_file():
            return
        if not hasattr(own, "detector"):
            own.detector = LandmarkDetector(model)
        frames = [own.detector.find(frame) for frame in clips.every_frame(index)]
        if not frames:
            raise DferError(f"clip {clips.names[index]!r} has lost its frames")
        with atomic_write(_file(store, index)) as aside:
            np.save(aside, np.stack(frames))

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(find_all, indices.tolist()):
            progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return Landmarks({clips.names[index]: _load(_file(store, index), count) for index in indices.tolist()})


def _file(store: Path, index: int) -> Path:
    return store / f"{index:06}.npy"


def _load(path: Path, count: int) -> Points:
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DferError(f"{path}: damaged ({error}); remove it") from error
    if points.dtype != np.float32 or points.ndim != 3 or points.shape[1:] != (count, 2):
        raise DferError(f"{path}: damaged ({points.dtype} {list(points.shape)}); remove it")
    return np.asarray(points, np.float32)
