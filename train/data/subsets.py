"""Subsets of a clip set, and the split into training and validation clips."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from . import ClipSet


class Subset:
    """The clips `indices` (int64 [N]) of another clip set, in that order, as a clip set."""

    def __init__(self, clips: ClipSet, indices: NDArray[np.int64]) -> None:
        self._clips, self._indices = clips, indices
        self.classes, self.jitter = clips.classes, clips.jitter
        self.names = [clips.names[index] for index in indices]
        self.groups = [clips.groups[index] for index in indices]
        self.labels: NDArray[np.int64] = clips.labels[indices]
        self.shares = None if clips.shares is None else clips.shares[indices]

    @property
    def fingerprint(self) -> str:
        chosen = " ".join(map(str, self._indices.tolist()))
        return hashlib.sha256(f"{self._clips.fingerprint} {chosen}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        return self._clips.frames(int(self._indices[index]), rng)


def split_validation(
    labels: NDArray[np.int64],
    share: float,
    seed: int,
    groups: Sequence[str | None] | None = None,
    decided: Mapping[str, bool] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split all clips into training and validation; return the indices of both, int64 in ascending order.

    Validation gets about `share` of each class. Clips of one group (a person, a film) stay together; a clip without a
    group (None) is a group of its own. The same seed gives the same split.
    decided: groups that are in validation (True) or in training (False) already, as they are in another clip set.
    Raises DferError if either part would be empty, unless groups that are decided make it so.
    """
    if not 0 < share < 1:
        raise DferError(f"validation share {share} is not between 0 and 1")
    decided = decided or {}
    units: dict[object, list[int]] = {}
    for index in range(len(labels)):
        group = groups[index] if groups is not None else None
        units.setdefault(index if group is None else group, []).append(index)
    sizes = np.maximum(np.bincount(labels), 1)
    wanted = share * sizes
    members = list(units.values())
    fixed = [group in decided for group in units]
    chosen = np.array([decided.get(group, False) if group else False for group in groups or [None] * len(labels)], bool)
    wanted = wanted - np.bincount(labels[chosen], minlength=len(sizes))
    for number in np.random.default_rng(seed).permutation(len(members)):
        if fixed[number]:
            continue
        unit = members[number]
        left = wanted - np.bincount(labels[unit], minlength=len(sizes))
        # Relative to class size, so that rare classes count as much as common ones.
        if ((left / sizes) ** 2).sum() < ((wanted / sizes) ** 2).sum():
            wanted = left
            chosen[unit] = True
    train, validation = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    if not any(fixed) and (not len(train) or not len(validation)):
        raise DferError(
            f"{len(labels)} clips of {len(units)} people or films cannot be divided into some to train on and a share "
            f"of {share} to hold back; a model needs two classes at least, and several clips of each"
        )
    return train, validation
