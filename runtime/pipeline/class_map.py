"""Which classes are shown: some of the model's, under other names, several taken as one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DferError

RESERVED = ("source", "frame", "time_s", "track", "x", "y", "w", "h", "label", "confidence", "entropy", "state")
"""Names that no class may have, for they are columns of the CSV."""


@dataclass(frozen=True)
class ClassMap:
    """From the model's C classes to K of one's own.

    classes: their K names. weights: float64 [C,K], 1 where a class of the model counts towards one of them.
    """

    classes: tuple[str, ...]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, names: dict[str, str | None], classes: tuple[str, ...]) -> ClassMap:
        """names: per class of the model its new name, or None to leave it out; classes not named stay as they are.

        >>> ClassMap.of({"joy": "good", "calm": "good", "fear": None}, ("joy", "fear", "calm", "anger")).classes
        ('good', 'anger')
        """
        renamed = [names.get(name, name) for name in classes]
        kept = tuple(dict.fromkeys(name for name in renamed if name is not None))
        return cls(kept, np.array([[float(name == new) for new in kept] for name in renamed]))

    @classmethod
    def read(cls, path: Path, classes: tuple[str, ...]) -> ClassMap:
        """Read a JSON object such as {"happiness": "positive", "neutral": null} for a model with these `classes`.

        Raises DferError for a file that is no such object, for names that the model does not have, and when no class
        would be left.
        """
        try:
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
        except (OSError, ValueError, RecursionError) as error:
            raise DferError(f"--classes {path}: {getattr(error, 'strerror', None) or f'not JSON ({error})'}") from error
        if not isinstance(pairs, _Pairs):
            raise DferError(f'--classes {path}: must hold an object such as {{"{classes[0]}": "my name"}}')
        names = dict(pairs)
        for name, new in pairs:
            if name not in classes:
                raise DferError(f'--classes {path}: the model has no "{name}"; it has {", ".join(classes)}')
            if new is not None and not (isinstance(new, str) and new.strip() and new.isprintable()):
                raise DferError(f'--classes {path}: "{name}" must become a name (or null, to leave it out)')
            if new in RESERVED:
                raise DferError(f'--classes {path}: "{new}" is the name of a column; choose another for "{name}"')
        if len(names) < len(pairs):
            raise DferError(f"--classes {path}: names a class twice")
        mapping = cls.of(names, classes)
        if not mapping.classes:
            raise DferError(f"--classes {path}: leaves no class")
        return mapping

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """[C] → [K]: probabilities of classes with one name are added, and the sum is 1 again.

        Where only classes that are left out were possible, nothing is known of the others: they are all alike.
        """
        kept = probabilities @ self.weights
        total = kept.sum()
        return kept / total if total > 0 else np.full(len(self.classes), 1 / len(self.classes))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repetitions."""
