"""Prompts for a vision-language model, whose answers become the captions of clips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...runtime.errors import DferError
from ...runtime.sources.tables import read_rows
from ...runtime.storage import atomic_write
from ..data.lists import splits_in
from ..data.videos import choose_frames, film_length, image_files, locate
from ..preparation.films import find_films
from .reading import TRAINING

PROMPT = (
    "These pictures are frames of one short video of a face, in their order. Tell in one or two plain English "
    "sentences how the face moves from the first to the last: inner and outer brows, eyelids, gaze, nose, cheeks, "
    "lips and their corners, jaw, head. Say which way each part moves, how strongly, how fast, and what comes "
    "first; of what keeps still say nothing. Write only what can be seen to move. Name no emotion, mood or feeling, "
    "use no word such as smile or frown that stands for one, do not guess why the face moves, and leave out age, "
    "sex, clothes and background."
)
"""In our own words, after FineCLIPER's idea for its high semantic level: movements, no emotions."""


def write_prompts(place: Path, out: Path) -> tuple[int, list[str]]:
    """Write one line of JSON per training clip to `out`; return how many, and the names of clips without frames.

    place: a folder of clips, nested to any depth, without those under val/ and test/; or a CSV with the column clip
    and optionally split, whose clips that are "train" in any fold are taken.
    Each line has clip (the name that `dfer-train` uses with this folder or table), prompt, and frames: paths of
    pictures, or frame numbers, from 0, in the file under "video".
    Raises DferError for a place without clips, a bad table, or an `out` that exists or cannot be written.
    """
    if out.exists():
        raise DferError(f"{out} exists, perhaps with answers in it; name another file")
    unreadable, lines = [], []
    for name, path in _clips(place, out):
        frames = _frames(path)
        if frames is None:
            unreadable.append(name)
        else:
            lines.append(json.dumps({"clip": name, "prompt": PROMPT, **frames}, ensure_ascii=False))
    if not lines:
        raise DferError(f"{place}: none of {len(unreadable)} training clips can be read")
    with atomic_write(out) as aside:
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines), unreadable


def _clips(place: Path, out: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of the training clips."""
    if place.is_file():
        rows = (row for _, row in read_rows(place, ("clip",), ("split",)) if row.get("split", TRAINING) == TRAINING)
        for name in dict.fromkeys(row["clip"].replace("\\", "/") for row in rows):
            yield name, locate(place.parent, name)
        return
    divided = splits_in(place)
    for film in find_films(place, out):
        if not divided or film.name.split("/")[0] == divided.get(TRAINING):
            yield film.name, film.path


def _frames(path: Path) -> dict[str, Any] | None:
    """Return the frames of a clip that evaluation samples, without repeats; None if it has no frames."""
    if path.is_dir():
        files = image_files(path)
        return {"frames": [str(files[i]) for i in _once(len(files))]} if files else None
    count, _ = film_length(path)
    return {"video": str(path), "frames": _once(count)} if count else None


def _once(count: int) -> list[int]:
    return sorted(set(choose_frames(count).tolist()))
