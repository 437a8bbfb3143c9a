"""Parts of a clip set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.data import ClipSet
from dfer.train.data.subsets import Subset, split_validation


class Numbers:
    """Clip n shows nothing but n."""

    classes, jitter, fingerprint, shares = EXPRESSIONS, 0.5, "abc", None
    labels = np.arange(10, dtype=np.int64) % 7
    names: list[str] = [f"clip {index}" for index in range(10)]  # noqa: RUF012 (never changed)
    groups: list[str | None] = [str(index) for index in range(10)]  # noqa: RUF012 (never changed)

    def __len__(self) -> int:
        return 10

    def frames(self, index: int, rng: np.random.Generator | None = None) -> np.ndarray:
        return np.full((16, 8, 8, 3), index if rng is None else rng.integers(100, 200), np.uint8)


def test_a_subset_shows_the_chosen_clips() -> None:
    subset: ClipSet = Subset(Numbers(), np.array([8, 2]))
    assert (len(subset), subset.labels.tolist(), subset.jitter) == (2, [1, 2], 0.5)
    assert (subset.names, subset.groups, subset.shares) == (["clip 8", "clip 2"], ["8", "2"], None)
    voted = Numbers()
    voted.shares = np.eye(10, 7, dtype=np.float32)  # type: ignore[assignment]
    assert Subset(voted, np.array([5, 2])).shares.tolist() == voted.shares[[5, 2]].tolist()  # type: ignore
    assert [subset.frames(index)[0, 0, 0, 0] for index in range(2)] == [8, 2]
    assert subset.frames(0, np.random.default_rng(0)).min() >= 100
    others = [Subset(Numbers(), np.array(indices)) for indices in ([2, 8], [8])]
    assert len({subset.fingerprint, "abc", *(other.fingerprint for other in others)}) == 4


@given(st.lists(st.integers(0, 6), min_size=30, max_size=200), st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.5]))
def test_validation_is_stratified_and_disjoint(listed: list[int], seed: int, share: float) -> None:
    labels = np.array(listed, dtype=np.int64)
    assume(max(np.bincount(labels)) * share > 0.5)
    train, validation = split_validation(labels, share, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for label in set(listed):
        assert abs((labels[validation] == label).sum() - share * (labels == label).sum()) <= 0.5
    again = split_validation(labels, share, seed)
    assert (again[1] == validation).all()


def test_the_seed_chooses_the_validation_clips() -> None:
    labels = np.repeat(np.arange(7), 20)
    assert (split_validation(labels, 0.2, 0)[1] != split_validation(labels, 0.2, 1)[1]).any()


def test_people_stay_together() -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice(7, 2000, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.03, 0.02])
    groups = [None if number % 10 == 0 else f"person {number // 8}" for number in range(2000)]
    train, validation = split_validation(labels, 0.2, 0, groups)
    assert not ({groups[i] for i in train} & {groups[i] for i in validation}) - {None}
    for label in range(7):
        assert (labels[validation] == label).sum() / (labels == label).sum() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("share", "words"), [(0.0, "not between"), (1.0, "not between"), (0.1, "3 clips of 3 people")])
def test_an_empty_part_is_refused(share: float, words: str) -> None:
    with pytest.raises(DferError, match=words):
        split_validation(np.array([0, 1, 2]), share, 0)
    with pytest.raises(DferError, match=r"50 clips of 1 people.*two classes at least|not between"):
        split_validation(np.zeros(50, dtype=np.int64), share, 0, ["one"] * 50)


def test_groups_that_are_decided_elsewhere_stay_where_they_are() -> None:
    labels, groups = np.tile(np.arange(5), 20), [str(number // 5) for number in range(100)]
    decided = {**dict.fromkeys(("0", "3", "other"), True), **dict.fromkeys(map(str, range(10, 20)), False)}
    train, validation = split_validation(labels, 0.2, 0, groups, decided)
    held_back = {groups[index] for index in validation}
    assert {"0", "3"} < held_back < set(map(str, range(10))) and len(held_back) == 4
    assert sorted([*train, *validation]) == list(range(100))
    train, validation = split_validation(labels, 0.2, 0, groups, dict.fromkeys(groups, False))
    assert len(train) == 100 and not len(validation)
