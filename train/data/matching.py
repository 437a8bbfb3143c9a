"""Match the classes of data with those of a model by name, and report those without a counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import DferError
from . import ClipSet
from .lists import meaning


@dataclass(frozen=True)
class Matching:
    """The class of a model that corresponds to each class of the clips.

    counterparts: the clips' class → the model's. left_out: the clips' classes without a counterpart → number of clips.
    unseen: the model's classes without a counterpart in the data; predictions of them are wrong.
    labels: int64 [N], indices into the model's classes, −1 for clips that are left out.
    """

    counterparts: Mapping[str, str]
    left_out: Mapping[str, int]
    unseen: tuple[str, ...]
    labels: NDArray[np.int64]

    @property
    def renamed(self) -> dict[str, str]:
        """The counterparts whose names differ."""
        return {name: found for name, found in self.counterparts.items() if name != found}

    def report(self) -> list[str]:
        """Return a line for each class that is renamed, and for those that are left out or unseen."""
        lines = [f"{name} counts as {found}" for name, found in self.renamed.items()]
        if self.left_out:
            listed = ", ".join(f"{name} {count}" for name, count in self.left_out.items())
            clips = sum(self.left_out.values())
            lines.append(f"left out: {clips} clips of classes that the model does not have ({listed})")
        if self.unseen:
            lines.append(f"classes of the model that the data do not have: {', '.join(self.unseen)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "counterparts": self.renamed,
            "no_counterpart": {"data": dict(self.left_out), "model": list(self.unseen)},
        }


def match_classes(clips: ClipSet, classes: tuple[str, ...]) -> Matching:
    """Match the classes of clips with a model's: by exact name, else case-insensitively, else by synonym
    (joy → happiness), if exactly one class of the model fits that no earlier rule has matched.

    Raises DferError if no class has a counterpart.
    """
    counts = {clips.classes[label]: int(count) for label, count in enumerate(np.bincount(clips.labels)) if count}
    everything = dict.fromkeys([*counts, *clips.classes])  # classes with clips are matched first
    found: dict[str, str] = {}
    for way in (str, str.lower, meaning):
        taken = set(found.values())
        for name in everything:
            alike = [one for one in classes if way(one) == way(name) and one not in taken]
            if name not in found and len(alike) == 1:
                found[name] = alike[0]
    counterparts = {name: found[name] for name in counts if name in found}
    if not counterparts:
        raise DferError(
            f"the data show {', '.join(counts)}; the model knows {', '.join(classes)}: none has a counterpart; "
            "for clips of your own give --data folder --root FOLDER, or --data csv"
        )
    place = np.array([classes.index(found[name]) if name in found else -1 for name in clips.classes])
    left_out = {name: count for name, count in counts.items() if name not in found}
    unseen = tuple(name for name in classes if name not in found.values())
    return Matching(counterparts, left_out, unseen, np.asarray(place[clips.labels], np.int64))
