"""What is shown follows what the model says: steadily, at any sampling rate, track by track."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.pipeline.class_map import ClassMap
from dfer.runtime.pipeline.smoothing import Smoother, correct_prior
from dfer.runtime.predictions import Prediction

CLASSES = ("happiness", "neutral", "anger")
HAPPY, CALM, ANGRY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def said(time: float, row: tuple[float, ...], track: int = 1) -> Prediction:
    probabilities = np.array(row, np.float32)
    return Prediction("a", round(time * 100), time, track, (0, 0, 9, 9), probabilities, CLASSES, "ready")


rows = st.lists(st.floats(0.001, 1), min_size=3, max_size=3).map(lambda row: tuple(v / sum(row) for v in row))


def test_without_options_predictions_stay_as_they_are() -> None:
    smoother = Smoother(CLASSES)
    for time, row in ((0.0, HAPPY), (0.1, (0.3, 0.3, 0.4)), (0.2, CALM)):
        raw = said(time, row)
        final = smoother.refine(raw)
        assert np.array_equal(final.probabilities, raw.probabilities)
        assert final.label == raw.label


@given(st.lists(st.tuples(st.floats(0, 3), rows, st.integers(1, 3)), max_size=30), st.floats(0, 5))
def test_probabilities_sum_to_one_and_lie_between_those_that_were_said(
    curve: list[tuple[float, tuple[float, ...], int]], seconds: float
) -> None:
    smoother, time = Smoother(CLASSES, seconds=seconds, gap=100), 0.0
    heard: dict[int, list[tuple[float, ...]]] = {}
    for step, row, track in curve:
        time += step
        heard.setdefault(track, []).append(row)
        final = smoother.refine(said(time, row, track))
        assert final.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert (final.probabilities <= np.max(heard[track], axis=0) + 1e-6).all()
        assert (final.probabilities >= np.min(heard[track], axis=0) - 1e-6).all()
        assert final.label in CLASSES
        assert 0 <= final.confidence <= 1
        assert 0 <= final.entropy <= math.log(3) + 1e-6


@given(st.lists(st.tuples(rows, st.integers(1, 3)), max_size=30))
def test_tracks_do_not_touch_each_other(curve: list[tuple[tuple[float, ...], int]]) -> None:
    together = Smoother(CLASSES, seconds=0.5)
    alone = {track: Smoother(CLASSES, seconds=0.5) for _, track in curve}
    for index, (row, track) in enumerate(curve):
        raw = said(index / 8, row, track)
        mixed, single = together.refine(raw), alone[track].refine(raw)
        assert np.array_equal(mixed.probabilities, single.probabilities)
        assert mixed.label == single.label


@given(st.integers(1, 30), st.floats(0.1, 3))
def test_smoothing_depends_on_time_and_not_on_the_sampling_rate(rate: int, seconds: float) -> None:
    smoother = Smoother(CLASSES, seconds=seconds, gap=10)
    smoother.refine(said(0, CALM))
    for index in range(1, rate + 1):
        final = smoother.refine(said(index / rate, HAPPY))
    assert final.probabilities[0] == pytest.approx(1 - math.exp(-1 / seconds), abs=1e-5)


def test_a_track_starts_afresh_after_a_gap_and_after_a_jump_back() -> None:
    for later in (2.0, 0.5):
        smoother = Smoother(CLASSES, seconds=5, gap=0.5)
        smoother.refine(said(1.0, CALM))
        final = smoother.refine(said(later, HAPPY))
        assert final.probabilities[0] == 1
        assert final.label == "happiness"


def test_a_face_that_comes_does_not_make_others_start_afresh() -> None:
    smoother = Smoother(CLASSES, seconds=5)
    smoother.refine(said(0.0, CALM))
    smoother.refine(said(0.8, HAPPY, track=2))
    final = smoother.refine(said(0.9, HAPPY))
    assert final.label == "neutral" and final.probabilities[0] < 0.2


def labels(smoother: Smoother, curve: list[tuple[float, ...]], rate: float = 10) -> list[str]:
    return [smoother.refine(said(index / rate, row)).label for index, row in enumerate(curve)]


def test_a_near_tie_does_not_flicker() -> None:
    one, other = (0.48, 0.52, 0.0), (0.52, 0.48, 0.0)
    assert set(labels(Smoother(CLASSES, seconds=0.5), [one, other] * 20)) == {"neutral"}


def test_a_small_lead_takes_over_when_it_lasts_and_a_large_one_at_once() -> None:
    small = labels(Smoother(CLASSES, seconds=0.5), [(0.4, 0.6, 0.0)] + [(0.53, 0.47, 0.0)] * 40)
    assert small.index("happiness") == 13  # it leads from 8 on, half a second before
    assert small == sorted(small, reverse=True)  # it changes once
    sharp = Smoother(CLASSES, seconds=0.001)
    assert labels(sharp, [(0.4, 0.6, 0.0), (0.8, 0.2, 0.0)]) == ["neutral", "happiness"]


def test_a_lead_that_another_class_takes_over_begins_anew() -> None:
    curve = [(0.33, 0.34, 0.33)] + [(0.36, 0.32, 0.32)] * 4 + [(0.3, 0.3, 0.4)] * 8
    assert labels(Smoother(CLASSES, seconds=0.5), curve).index("anger") == 10


@settings(max_examples=50)
@given(st.lists(rows, min_size=2, max_size=60))
def test_a_label_that_is_held_is_never_far_behind(curve: list[tuple[float, ...]]) -> None:
    smoother = Smoother(CLASSES, seconds=0.4)
    for index, row in enumerate(curve):
        final = smoother.refine(said(index / 10, row))
        assert final.probabilities.max() - final.confidence < 0.1 + 1e-6


@given(rows, st.floats(0.05, 0.9), st.floats(0.01, 0.09))
def test_the_more_frequent_neutral_was_in_training_the_less_is_it_believed(
    row: tuple[float, ...], prior: float, more: float
) -> None:
    low, high = (Smoother(CLASSES, neutral_prior=p).refine(said(0, row)).probabilities for p in (prior, prior + more))
    assert high[1] <= low[1] + 1e-6
    assert high.sum() == pytest.approx(1, abs=1e-5)
    assert high[0] * row[2] == pytest.approx(high[2] * row[0], abs=1e-5)  # the others keep their ratio


def test_the_prior_correction_is_bayes_rule() -> None:
    likelihood, trained = np.array([0.5, 0.1]), np.array([0.2, 0.8])
    posterior = likelihood * trained / (likelihood * trained).sum()
    assert correct_prior(posterior, trained) == pytest.approx(likelihood / likelihood.sum())


def test_the_prior_is_corrected_before_classes_are_joined() -> None:
    names = ClassMap.of({"happiness": "awake", "anger": "awake"}, CLASSES)
    smoother = Smoother(CLASSES, neutral_prior=0.5, names=names)
    final = smoother.refine(said(0, (0.25, 0.5, 0.25)))
    assert final.classes == smoother.classes == ("awake", "neutral")
    assert final.probabilities == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("classes", "options", "words"),
    [
        (CLASSES, {"seconds": -1}, "smooth: -1"),
        (CLASSES, {"seconds": math.nan}, "smooth: nan"),
        (CLASSES, {"neutral_prior": 1.0}, "neutral_prior: 1"),
        (CLASSES, {"neutral_prior": math.nan}, "neutral_prior: nan"),
        (("joy", "rage"), {"neutral_prior": 0.3}, "joy, rage"),
    ],
)
def test_impossible_settings_are_errors(classes: tuple[str, ...], options: dict[str, float], words: str) -> None:
    with pytest.raises(DferError, match=words):
        Smoother(classes, **options)  # type: ignore[arg-type]


def test_tracks_that_ended_are_forgotten() -> None:
    smoother = Smoother(CLASSES, seconds=0.5)
    for index in range(5000):
        smoother.refine(said(index * 1.0, HAPPY, track=index))
    assert len(smoother._tracks) < 100


@given(st.lists(rows, min_size=1, max_size=20), st.floats(0, 1))
def test_below_the_limit_a_label_is_unsure_and_the_probabilities_stay(
    curve: list[tuple[float, ...]], limit: float
) -> None:
    assert Smoother(CLASSES, unsure=0.5).refine(said(0, (0.5, 0.25, 0.25))).label == "happiness"  # not below
    sure, doubting = Smoother(CLASSES, seconds=0.3), Smoother(CLASSES, seconds=0.3, unsure=limit)
    for index, row in enumerate(curve):
        plain, final = sure.refine(said(index / 8, row)), doubting.refine(said(index / 8, row))
        assert np.array_equal(plain.probabilities, final.probabilities)
        assert final.label == ("unsure" if plain.confidence < limit else plain.label)
        assert final.label != "unsure" or final.confidence == final.probabilities.max()
