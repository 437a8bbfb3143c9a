"""How good predictions are: weighted and unweighted average recall, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Results on a labelled set.

    confusion: int64 [C,C], rows are true classes, columns predicted ones.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, classes: tuple[str, ...], labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Scores:
        """Compare true and predicted class indices, both int64 [N]."""
        count = len(classes)
        flat = np.bincount(labels * count + predicted, minlength=count * count)
        return cls(classes, flat.reshape(count, count).astype(np.int64))

    @property
    def support(self) -> NDArray[np.int64]:
        """Clips per true class, int64 [C]."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def war(self) -> float:
        """Weighted average recall (accuracy), 0..1."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Recall per class, NaN where a class has no clips."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / self.support.astype(np.float64)

    def uar(self, minimum: int = 1) -> float:
        """Unweighted average recall, 0..1, over the classes with at least `minimum` clips."""
        counted = self.support >= minimum
        return float(self.recalls[counted].mean()) if counted.any() else 0.0
