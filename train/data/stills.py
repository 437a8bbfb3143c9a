"""Photographs of aligned faces as clips: static-to-dynamic training from a table with labels or votes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from ...runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from ...runtime.sources.tables import bad_line, image_places, read_rows
from ..digests import content_digests, picture_sizes
from . import WINDOW
from .lists import check_once, class_name, classes_of, few_missing, meaning, our_name, own_name
from .videos import is_oblong, read_picture


class StillClips:
    """One clip per photograph: the still, repeated T times; augmentation's jitter can add motion.

    In training, if the table has another photograph of the same person that is neutral or of the same class, half of
    the clips start with that photograph and fade into the clip's own, like an onset.

    table: CSV with columns image, split, and label, or a column of votes or shares for each of several classes, or
    both; person is optional. Images are beside it or in its folder `images/`. A column of votes may have the short name
    of a class (happy); those in other columns (unknown, say) are ignored. Without a label, the most votes decide; a
    row with neither is left out, as is one of another class of MAFW's eleven, and `warn` is called with their number.
    split: the rows to take ("train", "val"). most: take only the first so many photographs of each class; None: all.
    max_missing: share of the photographs that may be missing or damaged; those are left out, and `warn` is called. All
    are decoded once for that. classes: allowed labels and columns of votes (see `classes_of_stills`).

    shares: float32 [N,C], the votes as shares that sum to 1; None if the table has labels only.
    Raises DferError for a missing table or column, an unknown label or a photograph in two rows, with the line, and if
    too many photographs are missing or damaged, or one is no square crop of a face.
    """

    jitter = 1.0

    def __init__(
        self,
        table: Path,
        split: str,
        most: int | None = None,
        max_missing: float = 0.01,
        warn: Callable[[str], object] = lambda _: None,
        classes: tuple[str, ...] = EXPRESSIONS,
    ) -> None:
        self.classes = classes
        paths: list[Path] = []
        names: list[str] = []
        groups: list[str | None] = []
        labels: list[int] = []
        shares: list[NDArray[np.float32]] = []
        counts, bare, outvoted, lacking = [0] * len(classes), 0, 0, Counter[str]()
        unwanted = set(MAFW_EXPRESSIONS) - {meaning(name) for name in classes}
        told = "; photographs of other classes need clips that show them, too (dfer-train --data folder, or csv)"
        others = told if set(classes) <= set(EXPRESSIONS) else ""
        rows = list(read_rows(table, ("image", "split"), ("label", "person")))
        columns = _vote_columns(rows[0][1] if rows else (), classes, table, warn)
        seen: dict[str, dict[str, int]] = {}
        for line, row in rows:
            check_once(seen, row["image"].replace("\\", "/"), table, line)
            if row["split"] != split:
                continue
            votes = _votes(row, columns, classes, table, line)
            if votes is None and "label" not in row:
                raise bad_line(table, None, f"needs a column label, or votes for {', '.join(classes)}")
            if (other := our_name(row.get("label", ""))) in unwanted:
                lacking[other] += 1
                continue
            if row.get("label") or votes is None:
                label = classes.index(class_name(row["label"], classes, table, line, others))
                outvoted += votes is not None and bool(votes[label] < votes.max())
            elif votes.any():
                label = int(votes.argmax())
            else:
                bare += 1
                continue
            counts[label] += 1
            if most is None or counts[label] <= most:
                labels.append(label)
                if votes is not None:
                    shares.append(votes / votes.sum() if votes.any() else np.eye(len(classes), dtype=np.float32)[label])
                names.append(row["image"])
                groups.append(row.get("person") or None)
                places = image_places(table, row["image"])
                paths.append(next((path for path in places if path.is_file()), places[0]))
        if bare:
            warn(f"{table}: left out {bare} photographs of split {split!r} that have neither a label nor votes")
        if outvoted:
            warn(f"{table}: {outvoted} labels of split {split!r} are not what most votes say; those are learned")
        if lacking:
            listed = ", ".join(f"{name} {count}" for name, count in sorted(lacking.items()))
            warn(
                f"{table}: left out {lacking.total()} photographs of split {split!r} of classes not used here: {listed}"
            )
        if not labels:
            present = ", ".join(sorted({row["split"] for _, row in rows}))
            raise DferError(f"{table}: no rows with split {split!r} to use; its splits are {present or 'none'}")
        sizes = picture_sizes(paths)
        kept = [index for index, size in enumerate(sizes) if size]
        bad = [path for path, size in zip(paths, sizes, strict=True) if not size]
        if bad:
            warn(few_missing(f"photographs of {table}", bad, len(paths), max_missing))
        oblong = next((index for index in kept if is_oblong(sizes[index])), None)
        if oblong is not None:  # training views would show one side of it, test views squeeze it
            width, height = sizes[oblong]
            raise DferError(
                f"{paths[oblong]} is {width}×{height}, not a square crop of a face; cut the faces out first: "
                f"dfer-prepare {table} FACES --photos"
            )
        self.paths = [paths[index] for index in kept]
        self.names = [names[index] for index in kept]
        self.groups = [groups[index] for index in kept]
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)[kept]
        self.shares = np.stack(shares)[kept] if shares else None
        self._people: dict[str | None, list[int]] = {}
        for index, person in enumerate(self.groups):
            self._people.setdefault(person, []).append(index)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the photographs' content, order, labels, votes and people; independent of their paths."""
        content = content_digests([[path] for path in self.paths])
        listed = zip(content, self.labels.tolist(), self.groups, strict=True)
        votes = b"" if self.shares is None else self.shares.tobytes()
        return hashlib.sha256(str(list(listed)).encode() + votes).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the photograph as RGB [H,W,3]."""
        return read_picture(self.paths[index])

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
        """Return the index of another photograph of the person to start with, or None."""
        person = self.groups[index]
        if rng is None or person is None or rng.random() < 0.5:
            return None
        fitting = (self.classes[self.labels[index]], "neutral")
        others = [
            other for other in self._people[person] if other != index and self.classes[self.labels[other]] in fitting
        ]
        return int(rng.choice(others)) if others else None


def split_to_test(table: Path) -> str:
    """Return the split of a table to test on if none is asked for: val, or test if there is no val."""
    splits = {row["split"] for _, row in read_rows(table, ("image", "split"), ("label", "person"))}
    return "test" if "test" in splits and "val" not in splits else "val"


def classes_of_stills(
    table: Path, model: tuple[str, ...], warn: Callable[[str], object] = lambda _: None
) -> tuple[str, ...]:
    """Return the classes of a table to test on: `classes_of` its labels. Without labels, `model` (the classes of the
    tested model) if each of them has a column of votes, else the seven expressions."""
    rows = list(read_rows(table, ("image", "split"), ("label", "person")))
    labels = {own_name(row["label"], table, line): line for line, row in rows if row.get("label")}
    if labels:
        return classes_of(labels, table, warn)
    columns = _vote_columns(rows[0][1] if rows else (), model, table)
    return model if columns.keys() == set(model) else EXPRESSIONS


def _vote_columns(
    header: Iterable[str], classes: tuple[str, ...], table: Path, warn: Callable[[str], object] = lambda _: None
) -> dict[str, str]:
    """Return the column of votes for each class that has one: of its name or a short form of it, in any case.

    Beside labels, a single such column holds something else, such as an intensity; `warn` is told that it is ignored.
    Raises DferError for two columns of a class, and for a synonym of a class without one, whose votes would be lost.
    """
    header = list(header)
    names = {our_name(name): name for name in classes} | {name: name for name in classes}
    columns: dict[str, str] = {}
    for column in header:
        name = names.get(column, names.get(our_name(column)))
        if name is not None and columns.setdefault(name, column) != column:
            raise bad_line(table, None, f"columns {columns[name]} and {column} both hold votes for {name}; drop one")
    if columns or "label" not in header:
        for column in header:
            meant = meaning(column)
            if meant in classes and meant not in columns and column not in columns.values():
                raise bad_line(table, None, f"column {column}; did you mean {meant}?")
    if len(columns) == 1 and "label" in header:
        (column,) = columns.values()
        warn(f"{table}: column {column} is ignored; beside labels, votes need a column for each of several classes")
        return {}
    return columns


def _votes(
    row: dict[str, str], columns: Mapping[str, str], classes: tuple[str, ...], table: Path, line: int
) -> NDArray[np.float32] | None:
    """Return a row's votes for `classes`, float32 [C]; None if the table has no such columns."""
    if not columns:
        return None
    try:
        votes = np.array([float(row[columns[name]] or 0) if name in columns else 0 for name in classes], np.float32)
    except ValueError as error:
        raise bad_line(table, line, f"votes must be numbers ({error})") from error
    if not np.isfinite(votes).all() or (votes < 0).any():
        raise bad_line(table, line, "votes must be numbers from 0 up")
    return votes
