"""Photographs of aligned faces as clips: static-to-dynamic training from a CSV of image,label,person,split."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS
from ...runtime.sources import read_image
from . import WINDOW


class StillClips:
    """One clip per photograph: the still, T times; motion, if wanted, comes from augmentation's tremble.

    For training, where the table has another photograph of the same person that is neutral or of the same class, every
    second clip begins with that one and turns into the other, as an onset does.

    table: CSV with columns image, label, person and split; images lie beside it or in its folder `images/`.
    split: which rows to take ("train", "val"). most: at most this many of any class, the first ones; None for all.
    Raises DferError for a missing file, column, image or an unknown label, with the line.
    """

    classes = EXPRESSIONS
    jitter = 1.0

    def __init__(self, table: Path, split: str, most: int | None = None) -> None:
        self.paths: list[Path] = []
        self.groups: list[str | None] = []
        labels: list[int] = []
        folders = [table.parent, table.parent / "images"]
        counts: Counter[str] = Counter()
        try:
            with table.open(newline="", encoding="utf-8") as lines:
                rows = csv.DictReader(lines)
                for row in rows:
                    if row["split"] == split and (most is None or counts[row["label"]] < most):
                        counts[row["label"]] += 1
                        labels.append(EXPRESSIONS.index(row["label"]))
                        self.groups.append(row["person"] or None)
                        self.paths.append(_first_existing([folder / row["image"] for folder in folders]))
        except OSError as error:
            raise DferError(f"stills table {table}: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DferError(
                f"stills table {table}, line {rows.line_num}: {error}; columns are image,label,person,split "
                f"and labels are {', '.join(EXPRESSIONS)}"
            ) from error
        if not labels:
            raise DferError(f"stills table {table}: no rows with split {split!r}")
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self._people: dict[str | None, list[int]] = {}
        for index, person in enumerate(self.groups):
            self._people.setdefault(person, []).append(index)
        listed = "\n".join(map(str, zip((path.resolve() for path in self.paths), labels, self.groups, strict=True)))
        self.fingerprint = hashlib.sha256(listed.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The photograph as RGB [H,W,3] (grey ones have three equal channels)."""
        image = read_image(self.paths[index])
        if image is None:
            raise DferError(f"cannot read image {self.paths[index]}")
        return image

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        shown = self.image(index)
        before = self._earlier(index, rng)
        if before is None or rng is None:
            return np.repeat(shown[None], WINDOW, axis=0)
        middle, length = rng.uniform(2, WINDOW / 2), rng.uniform(1, 4)
        weights = np.clip((np.arange(WINDOW) - middle) / length + 0.5, 0, 1)[:, None, None, None]
        first = cv2.resize(self.image(before), shown.shape[1::-1])
        return np.asarray(first * (1 - weights) + shown * weights, dtype=np.uint8)

    def _earlier(self, index: int, rng: np.random.Generator | None) -> int | None:
        """Another photograph of the person to begin with, or None."""
        person = self.groups[index]
        if rng is None or person is None or rng.random() < 0.5:
            return None
        fitting = (self.labels[index], EXPRESSIONS.index("neutral"))
        others = [other for other in self._people[person] if other != index and self.labels[other] in fitting]
        return int(rng.choice(others)) if others else None


def _first_existing(candidates: list[Path]) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise DferError(f"no such image: {' or '.join(str(path) for path in candidates)}")
