"""Metrics: weighted and unweighted average recall, confusion matrix and calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Results on a labelled set.

    confusion: int64 [C,C], rows are true classes, columns predicted ones.
    calibration_error: expected calibration error, 0..1 (see `calibration_error`); NaN if it was not measured.
    uncalibrated_error: the same for the probabilities before the model's temperature.
    confidence: mean confidence, 0..1, of right and of wrong predictions; NaN if there are none.
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
        """Score probabilities [N,C], and those before calibration, against true classes int64 [N]."""
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
        """Recall per class, float64 [C]; NaN for a class without clips."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / self.support.astype(np.float64)

    def uar(self, minimum: int = 1) -> float:
        """Return unweighted average recall, 0..1, over classes with at least `minimum` clips; NaN if there are none."""
        counted = self.support >= minimum
        return float(self.recalls[counted].mean()) if counted.any() else float("nan")


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3) over equal-width confidence bins."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(labels)))


def pooled(results: list[Scores]) -> Scores:
    """Sum the confusion matrices of several results (folds)."""
    return Scores(results[0].classes, np.sum([scores.confusion for scores in results], axis=0))
