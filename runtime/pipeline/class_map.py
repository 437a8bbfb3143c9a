"""Renaming, merging and dropping the model's classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError
from ..labels import name_fault
from ..storage import unique_keys


@dataclass(frozen=True)
class ClassMap:
    """Maps the model's C classes to K classes of your own.

    classes: their K names. weights: float64 [C,K], 1 where a class of the model counts towards one of them.
    """

    classes: tuple[str, ...]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, names: Mapping[str, str | None], classes: tuple[str, ...]) -> ClassMap:
        """Build a map. names: per class of the model its new name, or None to drop it; classes not named stay.

        Raises ParameterError for a name that the model does not have, one that cannot be displayed, and if no class
        would be left.

        >>> from dfer.runtime import ClassMap
        >>> ClassMap.of({"joy": "good", "calm": "good", "fear": None}, ("joy", "fear", "calm", "anger")).classes
        ('good', 'anger')
        """
        for name, new in names.items():
            if name not in classes:
                raise ParameterError("classes", f'the model has no "{_shown(name)}"; it has {", ".join(classes)}')
            if new is not None and (fault := name_fault(new)):
                raise ParameterError(
                    "classes", f'the new name of "{name}" {fault}; choose another, or null to leave it out'
                )
        renamed = [names.get(name, name) for name in classes]
        kept = tuple(dict.fromkeys(name for name in renamed if name is not None))
        if not kept:
            raise ParameterError("classes", "leaves no class")
        return cls(kept, np.array([[float(name == new) for new in kept] for name in renamed]))

    @classmethod
    def read(cls, path: Path, classes: tuple[str, ...]) -> ClassMap:
        """Read a JSON object such as {"happiness": "positive", "neutral": null} for a model with these `classes`.

        Raises ParameterError for any other content, and as `of` does.
        """
        names = cls.read_names(path)
        try:
            return cls.of(names, classes)
        except ParameterError as error:
            raise ParameterError("classes", f"{path}: {error.problem}") from error

    @staticmethod
    def read_names(path: Path) -> dict[str, Any]:
        """Read the JSON object without checking it against a model. Raises ParameterError for anything else."""
        try:
            names = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or f"cannot read JSON ({error})"
            raise ParameterError("classes", f"{path}: {reason}") from error
        if not isinstance(names, dict):
            raise ParameterError("classes", f'{path}: must hold an object such as {{"happiness": "my name"}}')
        return names

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map probabilities [C] → [K]: those of merged classes are added, and the sum is normalised to 1.

        If all the probability was on dropped classes, the result is uniform.
        """
        kept = probabilities @ self.weights
        total = kept.sum()
        return kept / total if total > 0 else np.full(len(self.classes), 1 / len(self.classes))


def _shown(name: object) -> str:
    """Return a name from user input, shortened and without terminal control characters."""
    return repr(str(name))[1:-1][:60]
