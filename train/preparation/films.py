"""Cut the main face out of every clip, aligned as the runtime aligns it, and write it as JPEGs for training.

A clip's folder is written under another name and renamed when complete, so an interrupted run resumes where it
stopped.
"""

from __future__ import annotations

import csv
import functools
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError, ParameterError
from ...runtime.faces.alignment import align
from ...runtime.faces.detection import FaceDetector
from ...runtime.faces.orientation import OrientationVote
from ...runtime.faces.tracking import Tracker
from ...runtime.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Source, folders_below, open_source, read_image
from ...runtime.sources.frames import FOREIGN_SUFFIXES
from ...runtime.storage import atomic_write
from ..data.videos import RATE, folder_rate
from .processes import run_in_processes

REPORT = "report.csv"
_ASIDE = ".partial"
_FRAME_RATE = 25.0  # assumed frames per second of a folder, used by tracking only
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
_OLD_COLUMNS = ("clip", "frames", "faces", "share", "state")
_COLUMNS = (*_OLD_COLUMNS, "bytes", "modified_ns")

PICTURES = FOREIGN_SUFFIXES | {".gif"}
"""Suffixes of pictures that are not taken."""
_VIDEOS = frozenset(
    {".3g2", ".asf", ".divx", ".dv", ".f4v", ".m1v", ".m2v", ".mod", ".mpe", ".mxf", ".ogm", ".qt", ".rm", ".rmvb"}
    | {".tod", ".vob", ".wtv", ".y4m"}
)  # that are not taken

Stamp = tuple[str, str]
"""By which a later run sees that a source has changed: bytes, and time of the last change in ns; empty if unknown."""


@dataclass(frozen=True)
class Film:
    """A clip to prepare.

    path: of the video or the folder of frames. name: its relative path, with "/" as separator.
    folder: relative path for its faces: the name without a video's suffix.
    rate: frames per second of a folder of frames, if known (`folder_rate`).
    """

    path: Path
    name: str
    folder: str
    rate: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a clip: frames read, frames with the main face, and "ok", "turned", "no-face", "unreadable" or "gone".

    turned: the faces were cut, but are not upright. gone: an earlier run cut them, but the clip is no longer there.
    stamp: of the clip, before it was read.
    """

    clip: str
    frames: int
    faces: int
    state: str
    stamp: Stamp = ("", "")

    def row(self) -> tuple[object, ...]:
        """Return the row of the report; share is faces / frames."""
        share = f"{self.faces / max(self.frames, 1):.3f}"
        return self.clip, self.frames, self.faces, share, self.state, *self.stamp


def find_films(videos: Path, out: Path, warn: Callable[[str], object] = lambda _: None) -> list[Film]:
    """Return all videos and folders of frames below `videos` but not in `out`, sorted by name.

    A folder that holds a video is not a folder of frames, even if it holds pictures too. `warn` is called with the
    number of videos and pictures of other kinds.
    Raises DferError if there are none, if two would be written to the same place or one inside another, if `out`
    is `videos`, for a folder that cannot be read, and as `folder_rate` does.
    """
    if not videos.is_dir():
        raise DferError(f"{videos}: no such folder")
    if videos.resolve() == out.resolve():
        raise DferError(f"{out}: faces must not go among the videos; name another folder")
    films, foreign = [], []
    for here, files in folders_below(videos, out):
        foreign += [path for path in files if path.suffix.lower() in PICTURES | _VIDEOS]
        within = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        for path in within:
            relative = path.relative_to(videos)
            films.append(Film(path, relative.as_posix(), relative.with_suffix("").as_posix()))
        if not within and here != videos and any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            relative = here.relative_to(videos)
            films.append(Film(here, relative.as_posix(), relative.as_posix(), folder_rate(here)))
    warn_of_foreign(foreign, videos, ".mp4, or frames to .jpg", warn)
    if not films:
        raise DferError(f"{videos}: holds neither videos ({', '.join(sorted(VIDEO_SUFFIXES))}) nor folders of frames")
    _check_apart(films)
    return sorted(films, key=lambda film: film.name)


def prepare(
    videos: Path,
    out: Path,
    size: int = 128,
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda *_: None,
    warn: Callable[[str], object] = lambda _: None,
) -> list[Outcome]:
    """Cut the faces of all clips below `videos`, write them to `out`, size×size, with a report; return results by name.

    workers: number of processes; 1 works in this one. progress: called with the clips done and all clips, first with
    those that an earlier run finished. Clips that are not "ok", or that changed, are tried again by every run. Faces of
    clips that are no longer there stay, since perhaps nothing else is left of these: they are "gone" in the results.
    warn: see `find_films`.
    Raises DferError if there are no clips, `out` cannot be written or holds crops of another size or folders that no
    run wrote, or a process dies.
    """
    films = find_films(videos, out, warn)
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / _ASIDE, ignore_errors=True)
        earlier = _earlier(films, out)
        check_size((out / film.folder / "00000.jpg" for film in films), out, size)
        outcomes = _finished(films, earlier, out)
        done = {outcome.clip for outcome in outcomes}
        written = set().union(*(_places(clip) for clip in earlier))
        for film in films:
            if film.name not in done and film.folder in written and (out / film.folder).is_dir():
                shutil.rmtree(out / film.folder)  # what it shows is no longer the film, or not upright
        gone = _gone(films, earlier, out)
        write_rows(out / REPORT, _COLUMNS, (outcome.row() for outcome in [*outcomes, *gone]))
        progress(len(outcomes), len(films))
        with (out / REPORT).open("a", newline="", encoding="utf-8") as report:
            rows = csv.writer(report)
            cut = functools.partial(prepare_film, out=out, size=size)
            for outcome in run_in_processes(cut, [film for film in films if film.name not in done], workers):
                outcomes.append(outcome)
                rows.writerow(outcome.row())
                report.flush()
                progress(len(outcomes), len(films))
        outcomes = sorted([*outcomes, *gone], key=lambda outcome: outcome.clip)
        write_rows(out / REPORT, _COLUMNS, (outcome.row() for outcome in outcomes))
        shutil.rmtree(out / _ASIDE, ignore_errors=True)
    except OSError as error:
        raise DferError(f"{error.filename or out}: {error.strerror or error}") from error
    return outcomes


def prepare_film(film: Film, out: Path, size: int) -> Outcome:
    """Cut the main face out of one clip and write it as OUT/<folder>/00000.jpg, 00001.jpg, …; skip frames without it.

    Faces per second, if known, are written to rate.txt beside them. Nothing is written for a clip that cannot be read
    or shows no face.
    """
    detector, vote, stamp = own_detector(), OrientationVote(), stamp_of(film.path)
    try:
        with open_source(film.path, film.rate or _FRAME_RATE) as source:
            frames, landmarks = follow_main_face(source, detector, vote)
        if not landmarks:
            return Outcome(film.name, frames, 0, "no-face", stamp)
        aside = out / _ASIDE / film.folder
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with open_source(film.path, film.rate or _FRAME_RATE) as source:
            cut = (align(frame.image, landmarks[frame.index], size) for frame in source if frame.index in landmarks)
            for number, crop in enumerate(cut):
                (aside / f"{number:05d}.jpg").write_bytes(jpeg(crop))
            if rate := film.rate if film.path.is_dir() else source.rate:
                share = len(landmarks) / (max(landmarks) - min(landmarks) + 1)  # frames left out take time too
                (aside / RATE).write_text(f"{rate * share:g}\n", encoding="utf-8")
    except (DferError, cv2.error):
        return Outcome(film.name, 0, 0, "unreadable", stamp)
    target = out / film.folder
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(target)
    return Outcome(film.name, frames, len(landmarks), "turned" if vote.degrees else "ok", stamp)


def follow_main_face(
    source: Source, detector: FaceDetector, vote: OrientationVote
) -> tuple[int, dict[int, NDArray[np.float32]]]:
    """Return the number of frames, and the main face's landmarks [5,2] by frame index. All faces are added to `vote`.

    The main face is that of the track with the largest sum of face sizes over time.
    """
    tracker = Tracker()
    seen: dict[int, dict[int, NDArray[np.float32]]] = defaultdict(dict)
    presence: dict[int, float] = defaultdict(float)
    frames = 0
    for frame in source:
        frames += 1
        faces = detector.detect(frame.image)
        if faces:
            vote.add(frame.image, faces)
        for face, track in zip(faces, tracker.update(faces, frame.time), strict=True):
            seen[track.id][frame.index] = face.landmarks
            presence[track.id] += math.sqrt(face.box[2] * face.box[3])
    return frames, seen[max(presence, key=presence.__getitem__)] if presence else {}


@functools.cache
def own_detector() -> FaceDetector:
    """Return this process's detector."""
    return FaceDetector()


def jpeg(crop: NDArray[np.uint8]) -> bytes:
    """Encode a crop as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()


def _check_apart(films: Sequence[Film]) -> None:
    """Raise DferError if two clips would share a folder, or one would be inside another's."""
    owners: dict[str, Film] = {}
    for film in films:
        first = owners.setdefault(film.folder, film)
        if first is not film:
            raise DferError(f"{first.name} and {film.name} would both be written to {film.folder}; rename one")
    for film in films:
        for above in Path(film.folder).parents:
            if other := owners.get(above.as_posix()):
                raise DferError(f"{film.name} would be written among the frames of {other.name}; rename one")


def stamp_of(source: Path) -> Stamp:
    """Return the stamp of a file, or of a folder's pictures and rate: all their bytes, and the latest change."""
    try:
        files = [source]
        if source.is_dir():
            files = [path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES or path.name == RATE]
        found = [path.stat() for path in files]
    except OSError:
        return "", ""
    return str(sum(one.st_size for one in found)), str(max((one.st_mtime_ns for one in found), default=0))


def _earlier(films: Sequence[Film], out: Path) -> dict[str, Outcome]:
    """Read from an earlier run's report, by clip, the outcomes of those whose faces it wrote. Reports of earlier
    versions have no stamps."""
    if not (out / REPORT).is_file():
        for folder in (out / film.folder for film in films):
            if folder.exists():  # perhaps the user's own: dfer-prepare writes the report first
                raise DferError(f"{folder} exists but {out} has no {REPORT} of dfer-prepare; name another folder")
        return {}
    with (out / REPORT).open(newline="", encoding="utf-8") as report:
        table = csv.DictReader(report)
        columns = tuple(table.fieldnames or ())
        if columns not in (_COLUMNS, _OLD_COLUMNS):
            raise DferError(f"{out / REPORT} is not a report of dfer-prepare; name another folder")
        rows = [row for row in table if row["state"] in ("ok", "turned", "gone")]
    stamps = [("", "") if columns == _OLD_COLUMNS else (row["bytes"], row["modified_ns"]) for row in rows]
    return {
        row["clip"]: Outcome(row["clip"], int(row["frames"]), int(row["faces"]), row["state"], stamp)
        for row, stamp in zip(rows, stamps, strict=True)
    }


def _finished(films: Sequence[Film], earlier: Mapping[str, Outcome], out: Path) -> list[Outcome]:
    """Return the outcomes of the clips that have not changed since they were cut, as far as is known."""
    finished = []
    for film in films:
        before, now = earlier.get(film.name), stamp_of(film.path)
        if before and before.state == "ok" and before.stamp in (("", ""), now) and (out / film.folder).is_dir():
            finished.append(replace(before, stamp=now))
    return finished


def _gone(films: Sequence[Film], earlier: Mapping[str, Outcome], out: Path) -> list[Outcome]:
    """Return the outcomes of clips that are no longer there, but whose faces are."""
    names, folders = {film.name for film in films}, {film.folder for film in films}
    return [
        replace(before, state="gone")
        for clip, before in earlier.items()
        if clip not in names and not _places(clip) & folders and any((out / place).is_dir() for place in _places(clip))
    ]


def _places(clip: str) -> set[str]:
    """Return the folders that the faces of a clip of this name may have: it was a video or a folder of frames."""
    path = PurePosixPath(clip)
    return {clip, path.with_suffix("").as_posix() if path.suffix.lower() in VIDEO_SUFFIXES else clip}


def check_size(crops: Iterable[Path], out: Path, size: int) -> None:
    """Raise ParameterError if the first existing one of an earlier run's `crops` has another size."""
    first = next((crop for crop in crops if crop.is_file()), None)
    found = None if first is None else read_image(first)
    if found is not None and len(found) != size:
        raise ParameterError("size", f"{out} holds faces of {len(found)} pixels; give that or another folder")


def warn_of_foreign(foreign: Sequence[Path], place: Path, remedy: str, warn: Callable[[str], object]) -> None:
    """Warn of files in `place` that are left out for their suffixes. remedy: what to convert them to."""
    if foreign:
        kinds = ", ".join(sorted({path.suffix for path in foreign}))
        warn(f"{place}: left out for their kinds ({kinds}), number of files: {len(foreign)}; convert them to {remedy}")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV, completely or not at all."""
    with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
