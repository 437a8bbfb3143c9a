"""Calibration of a model's probabilities, fitted after training on held-back clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import calibration_error

LEAST = 30
"""Fewest clips to calibrate on: with fewer, the fit is chance and may be worse than no calibration."""

_COLDEST, _HOTTEST = 0.05, 20.0  # range of the temperature search


@dataclass(frozen=True)
class Confidence:
    """temperature: divides the logits. unsure_below: probability below which a label is reported as "unsure"."""

    temperature: float = 1.0
    unsure_below: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Calibration:
    """A fitted `confidence`, how many clips it was fitted on, and their calibration error before and after, 0..1."""

    confidence: Confidence
    clips: int
    error_before: float
    error_after: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        return cls(**{**content, "confidence": Confidence(**content["confidence"])})


def fit_confidence(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """Fit a temperature (Guo et al. 2017, §4.2) and the "unsure" limit to logits [N,C] and true classes int64 [N].

    The limit maximises right minus wrong labels among those at or above it.
    """
    before, after = _softmax(logits), _softmax(logits / (temperature := _best_temperature(logits, labels)))
    confidence = Confidence(round(temperature, 4), round(_best_limit(after, labels), 3))
    return Calibration(confidence, len(labels), calibration_error(labels, before), calibration_error(labels, after))


def undo_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return what probabilities [N,C] would be without the temperature that was applied to them."""
    return _softmax(np.log(np.maximum(probabilities, 1e-30)) * temperature)


def _best_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the lowest cross-entropy, by ternary search: it is unimodal in 1/temperature.

    Each label counts (N + 1) / (N + 2), and the rest is spread over all classes (Platt 1999, §2.2): a few clips that
    are all classified correctly do not make a model certain.
    """
    doubt = 1 / (len(labels) + 2)

    def cost(inverse: float) -> float:
        scaled = logits.astype(np.float64) * inverse
        highest = scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled - highest).sum(axis=1)) + highest[:, 0]
        told = (1 - doubt) * scaled[np.arange(len(labels)), labels] + doubt * scaled.mean(axis=1)
        return float((total - told).mean())

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(80):
        third = (high - low) / 3
        if cost(low + third) < cost(high - third):
            high -= third
        else:
            low += third
    return 2 / (low + high)


def _best_limit(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the confidence limit below which dropping labels gains most; 0 if dropping none is best."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(confidence)
    right = (probabilities.argmax(axis=1) == labels)[order]
    gained = np.concatenate([[0], np.cumsum(np.where(right, -1, 1))])  # by dropping the first n
    count = int(gained.argmax())
    if count == 0:
        return 0.0
    return float(confidence[order[min(count, len(order) - 1)]])


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)
