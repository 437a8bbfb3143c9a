"""How far a model's probabilities are to be believed: fitted after training, on clips that were held back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import calibration_error

LEAST = 30
"""Clips below which a fit to them is chance: it may be further from the truth than no calibration."""

_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures that are tried


@dataclass(frozen=True)
class Confidence:
    """temperature: what logits are divided by. unsure_below: probability under which a label is called "unsure"."""

    temperature: float = 1.0
    unsure_below: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Calibration:
    """A fitted `confidence`, the clips it was fitted on, and the calibration error on them before and after, 0..1."""

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
    """Temperature scaling (Guo et al. 2017, §4.2) of logits [N,C] to true classes int64 [N], and the "unsure" limit.

    Labels below the limit are left out; it maximises right minus wrong labels among those kept.
    """
    before, after = _softmax(logits), _softmax(logits / (temperature := _best_temperature(logits, labels)))
    confidence = Confidence(round(temperature, 4), round(_best_limit(after, labels), 3))
    return Calibration(confidence, len(labels), calibration_error(labels, before), calibration_error(labels, after))


def undo_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """What probabilities [N,C] would be without a temperature in them."""
    return _softmax(np.log(np.maximum(probabilities, 1e-30)) * temperature)


def _best_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The one with the lowest cross-entropy, which has a single valley over 1/temperature: found by thirds.

    Each label counts (N + 1) / (N + 2), the rest is spread over all classes (Platt 1999, §2.2): a few clips that are
    all right do not make a model certain.
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
    """The confidence below which dropping labels gains most; 0 if none does."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(confidence)
    right = (probabilities.argmax(axis=1) == labels)[order]
    gained = np.concatenate([[0], np.cumsum(np.where(right, -1, 1))])  # by leaving out the first n
    count = int(gained.argmax())
    if count == 0:
        return 0.0
    return float(confidence[order[min(count, len(order) - 1)]])


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)
