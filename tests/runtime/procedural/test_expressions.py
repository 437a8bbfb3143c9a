"""Courses of expressions: exact mirror pairs, all fit the clip, and clips that show what they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime.procedural import ActionUnits, Identity, Image, Pose
from dfer.runtime.procedural.expressions import APEX, REVERSED, ExpressionCurve, render_clip

SECONDS, FPS = 2.0, 8.0
TIMES = [(i + 0.5) / FPS for i in range(16)]
PAIRS = [("surprise", "fear"), ("disgust", "anger")]


def curve(label: str, seed: int) -> ExpressionCurve:
    return ExpressionCurve.sample(label, SECONDS, np.random.default_rng(seed))


def states(label: str, seed: int) -> list[tuple[ActionUnits, Pose]]:
    return [curve(label, seed).at(t) for t in TIMES]


def filmed(
    label: str, identity: Identity, seed: int, size: int = 160
) -> tuple[Image, NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return render_clip(ExpressionCurve.sample(label, SECONDS, rng), identity, rng, FPS, size)[:3]


def test_labels() -> None:
    assert list(APEX) == ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]
    assert {frozenset(pair) for pair in REVERSED.items()} == {frozenset(pair) for pair in PAIRS}


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_pairs_are_exact_time_reversals(forward: str, backward: str) -> None:
    assert APEX[forward] == APEX[backward]
    for seed in range(5):
        assert states(backward, seed) == states(forward, seed)[::-1]
        assert states(backward, seed) != states(forward, seed)


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_the_quick_flank_comes_first_and_in_the_reversed_label_last(forward: str, backward: str) -> None:
    for seed in range(20):
        for label, sign in ((forward, 1), (backward, -1)):
            values = np.array([curve(label, seed).intensity(t) for t in np.linspace(0, SECONDS, 81)])
            steps = np.diff(values)
            assert sign * (steps.max() + steps.min()) > 0.02


@pytest.mark.parametrize("label", APEX)
def test_courses_fit_the_clip(label: str) -> None:
    for seed in range(10):
        drawn = curve(label, seed)
        values = [drawn.intensity(t) for t in np.linspace(0, SECONDS, 201)]
        assert min(values) >= 0 and max(values) <= 1
        if label == "neutral":
            assert max(values) == 0
        else:
            assert max(values) == pytest.approx(drawn.strength, abs=0.01) and drawn.strength >= 0.6
            assert values[0] < 0.01 and (values[-1] < 0.01) != (label == "sadness")


@pytest.mark.parametrize("label", ["happiness", "sadness", "surprise", "anger"])
def test_the_apex_shows_the_prototype(label: str) -> None:
    drawn = curve(label, 1)
    peak = max(TIMES, key=drawn.intensity)
    shown, apex = np.array(drawn.at(peak)[0].vector()), np.array(APEX[label].vector())
    strong = np.abs(apex) >= 0.7
    assert (shown[strong] / apex[strong] > 0.35).all()


def test_clip_shapes_and_repeatability() -> None:
    identity = Identity.sample(np.random.default_rng(0))
    frames, marks, intensities = filmed("happiness", identity, 5, size=96)
    assert frames.shape == (16, 96, 96, 3) and frames.dtype == np.uint8
    assert marks.shape == (16, 5, 2) and marks.dtype == np.float32
    assert intensities.shape == (16,) and intensities.dtype == np.float32
    assert ((marks > 0) & (marks < 96)).all()
    again = filmed("happiness", identity, 5, size=96)
    assert np.array_equal(frames, again[0])


def test_clips_of_a_pair_are_each_other_reversed_but_for_the_grain() -> None:
    identity = Identity.sample(np.random.default_rng(0))
    first, marks, _ = filmed("surprise", identity, 5, size=96)
    second, mirrored, _ = filmed("fear", identity, 5, size=96)
    assert np.array_equal(marks, mirrored[::-1])
    difference = np.abs(first.astype(int) - second[::-1])
    assert difference.mean() < 8 < np.abs(first.astype(int) - second).max()


def test_happy_clips_smile_when_intense() -> None:
    identity = Identity.sample(np.random.default_rng(2))
    _, marks, intensities = filmed("happiness", identity, 8)
    width = np.linalg.norm(marks[:, 4] - marks[:, 3], axis=1) / np.linalg.norm(marks[:, 1] - marks[:, 0], axis=1)
    assert np.corrcoef(width, intensities)[0, 1] > 0.8
