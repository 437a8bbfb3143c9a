"""WAR and UAR against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.train.metrics import Scores, calibration_error, pooled


def certain(predicted: list[int], classes: int) -> np.ndarray:
    """Probabilities that leave no doubt."""
    return np.eye(classes, dtype=np.float32)[predicted]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure, half = [1.0, 0.0], [0.55, 0.45]
    assert calibration_error(np.array([0, 0]), np.array([sure, sure], np.float32)) == pytest.approx(0)
    assert calibration_error(np.array([1, 1]), np.array([sure, sure], np.float32)) == pytest.approx(1)
    mixed = calibration_error(np.array([0, 0, 1, 0]), np.array([sure, half, half, sure], np.float32))
    nearly = np.array([sure, [0.95, 0.05]], np.float32)
    assert calibration_error(np.array([1, 0]), nearly) == pytest.approx((1 - 0.05) / 2)  # certainty is in the last bin
    assert mixed == pytest.approx(0.5 * 0.05)  # two of the four: right half the time, 55 % sure


def test_folds_are_pooled() -> None:
    one = Scores(("a", "b"), np.array([[1, 2], [3, 4]]))
    assert pooled([one, one]).confusion.tolist() == [[2, 4], [6, 8]]


def test_of_no_clips_none_is_right() -> None:
    scores = Scores.of(("a", "b"), np.array([], np.int64), np.empty((0, 2), np.float32))
    assert scores.war == scores.calibration_error == 0
    assert np.isnan([scores.uar(), *scores.recalls, *scores.confidence]).all()


def test_a_known_case() -> None:
    scores = Scores.of(("a", "b", "c"), np.array([0, 0, 0, 0, 1, 1]), certain([0, 0, 0, 1, 1, 0], 3))
    assert scores.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.war == pytest.approx(4 / 6)
    assert scores.uar() == pytest.approx((3 / 4 + 1 / 2) / 2)  # a class without clips does not count
    assert scores.uar(minimum=3) == pytest.approx(3 / 4)
    assert np.isnan(scores.uar(minimum=5))  # which is not 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_definitions_hold(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    scores = Scores.of(("a", "b", "c", "d"), labels, certain(predicted.tolist(), 4))
    assert scores.war == pytest.approx((labels == predicted).mean())
    recalls = [(predicted[labels == label] == label).mean() for label in set(labels.tolist())]
    assert scores.uar() == pytest.approx(np.mean(recalls))
