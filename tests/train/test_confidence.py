"""Calibration: a known temperature is found, "unsure" pays, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dfer.train.confidence import fit_confidence, undo_temperature


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def _draw(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits and classes drawn from the probabilities that they mean."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 5))
    labels = (_softmax(logits).cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return logits, np.minimum(labels, 4).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, labels = _draw(20_000, 1)
    found = fit_confidence((logits * temperature).astype(np.float32), labels)
    assert found.confidence.temperature == pytest.approx(temperature, rel=0.05)
    assert found.clips == 20_000
    assert found.error_after < 0.015
    assert found.error_before >= found.error_after - 0.005


def test_below_the_limit_labels_are_wrong_more_often_than_right() -> None:
    logits, labels = _draw(20_000, 2)
    confidence = fit_confidence(logits.astype(np.float32), labels).confidence
    assert confidence.unsure_below == pytest.approx(0.5, abs=0.05)  # of probabilities that are true
    probabilities = _softmax(logits)
    right, below = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1) < confidence.unsure_below
    assert right[below].mean() < 0.5 < right[~below].mean()


def test_the_limit_lies_above_the_labels_that_are_left_out() -> None:
    logits = np.array([[0.5, 0, 0]] * 20 + [[4, 0, 0]] * 40, np.float32)
    found = fit_confidence(logits, np.array([1] * 20 + [0] * 40)).confidence
    doubtful, sure = _softmax(logits / found.temperature).max(axis=1)[[0, -1]]
    assert doubtful < found.unsure_below == pytest.approx(sure, abs=1e-3)


def test_a_model_that_is_always_right_is_never_unsure() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    found = fit_confidence(logits, np.array([0, 1, 2, 1])).confidence
    assert found.unsure_below == 0
    certainty = _softmax(logits / found.temperature).max()
    assert certainty == pytest.approx(1 - 1 / 6 * 2 / 3, abs=0.01)  # four right ones are no proof


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_a_temperature_is_undone(temperature: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 1, (4, 3))
    found = undo_temperature(_softmax(logits / temperature), temperature)
    np.testing.assert_allclose(found, _softmax(logits), atol=2e-3)
