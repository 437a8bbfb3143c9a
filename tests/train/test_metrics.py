"""WAR and UAR against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.train.metrics import Scores


def test_a_known_case() -> None:
    scores = Scores.of(("a", "b", "c"), np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0]))
    assert scores.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.war == pytest.approx(4 / 6)
    assert scores.uar() == pytest.approx((3 / 4 + 1 / 2) / 2)  # a class without clips does not count
    assert scores.uar(minimum=3) == pytest.approx(3 / 4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_definitions_hold(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    scores = Scores.of(("a", "b", "c", "d"), labels, predicted)
    assert scores.war == pytest.approx((labels == predicted).mean())
    recalls = [(predicted[labels == label] == label).mean() for label in set(labels.tolist())]
    assert scores.uar() == pytest.approx(np.mean(recalls))
