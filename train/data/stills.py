"""Photographs of aligned faces as clips: static-to-dynamic training from a CSV of image,label,person,split."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS
from ...runtime.sources.tables import find_image, read_rows
from ..digests import content_digests
from . import WINDOW
from .lists import class_name


class StillClips:
    """One clip per photograph: the still, T times; motion, if wanted, comes from augmentation's jitter.

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
        self.names: list[str] = []
        self.groups: list[str | None] = []
        labels: list[int] = []
        counts = [0] * len(EXPRESSIONS)
        for line, row in read_rows(table, ("image", "label", "person", "split")):
            if row["split"] != split:
                continue
            label = EXPRESSIONS.index(class_name(row["label"], EXPRESSIONS, table, line))
            counts[label] += 1
            if most is None or counts[label] <= most:
                labels.append(label)
                self.names.append(row["image"])
                self.groups.append(row["person"] or None)
                self.paths.append(find_image(table, row["image"], line))
        if not labels:
            raise DferError(f"{table}: no rows with split {split!r}")
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self._people: dict[str | None, list[int]] = {}
        for index, person in enumerate(self.groups):
            self._people.setdefault(person, []).append(index)

    @cached_property
    def fingerprint(self) -> str:
        """Of the content of all photographs, their order, labels and people; not of where they lie."""
        content = content_digests([[path] for path in self.paths])
        listed = zip(content, self.labels.tolist(), self.groups, strict=True)
        return hashlib.sha256(str(list(listed)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The photograph as RGB [H,W,3] (grey ones have three equal channels)."""
        image = cv2.imread(str(self.paths[index]), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise DferError(f"cannot read image {self.paths[index]}")
        return np.asarray(image, dtype=np.uint8)

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
