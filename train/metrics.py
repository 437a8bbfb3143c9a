"""How good predictions are: weighted and unweighted average recall, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Results on a labelled set.

    confusion: int64 [C,C], rows are true classes, columns predicted ones.
    calibration_error: expected calibration error, 0..1 (see `calibration_error`); NaN where it was not measured.
    uncalibrated_error: the same of the probabilities before the model's temperature.
    confidence: mean confidence, 0..1, of right and of wrong predictions; NaN where there are none.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    calibration_error: float = float("nan")
    uncalibrated_error: float = float("nan")
    confidence: tuple[float, float] = (float("nan"), float("nan"))

    @classmethod
    def of(
        cls,
        classes: tuple[str, ...],
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        uncalibrated: NDArray[np.float32] | None = None,
    ) -> Scores:
        """Compare true classes int64 [N] with probabilities [N,C], and with those before calibration."""
        count = len(classes)
        flat = np.bincount(labels * count + probabilities.argmax(axis=1), minlength=count * count)
        confusion = flat.reshape(count, count).astype(np.int64)
        before = probabilities if uncalibrated is None else uncalibrated
        right, highest = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
        confidence = tuple(
            float(part.mean()) if len(part) else float("nan") for part in (highest[right], highest[~right])
        )
        errors = calibration_error(labels, probabilities), calibration_error(labels, before)
        return cls(classes, confusion, *errors, (confidence[0], confidence[1]))

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
        """Unweighted average recall, 0..1, over the classes with at least `minimum` clips; NaN where there are none."""
        counted = self.support >= minimum
        return float(self.recalls[counted].mean()) if counted.any() else float("nan")


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): how far confidence is from accuracy, over even bins."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(labels)))


def pooled(results: list[Scores]) -> Scores:
    """All clips of several results (folds) in one confusion matrix."""
    return Scores(results[0].classes, np.sum([scores.confusion for scores in results], axis=0))
