"""Steady faces: still when the face is, at once when it moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import Face, GivenFace
from dfer.runtime.faces.one_euro import LandmarkFilter
from dfer.runtime.faces.optical_flow import SimilarityMotion

LAG = 1 / (2 * math.pi * 5)  # face sizes, the bound that the class promises


def face(x: float = 0.0, size: float = 128, noise: np.ndarray | None = None) -> Face:
    scale = size / 128
    landmarks = (TEMPLATE * scale + (x, 0)).astype(np.float32)
    jitter = np.zeros((7, 2)) if noise is None else noise * size
    box = (x + jitter[5, 0], jitter[5, 1], size + jitter[6, 0], size + jitter[6, 1])
    return Face(box, (landmarks + jitter[:5]).astype(np.float32), 0.9)


@pytest.mark.parametrize("rate", [8, 25])
@pytest.mark.parametrize("size", [30, 400])
def test_a_still_face_trembles_less_than_half_as_much(rate: float, size: float) -> None:
    rng = np.random.default_rng(0)
    seen = [face(size=size, noise=rng.normal(0, 0.01, (7, 2))) for _ in range(200)]
    steady = LandmarkFilter(seen[0], 0.0)
    shown = [steady.update(one, (index + 1) / rate) for index, one in enumerate(seen)]
    for read in (lambda f: f.landmarks, lambda f: np.array(f.box)):
        raw = np.std([read(f) for f in seen[20:]], axis=0).mean()
        assert np.std([read(f) for f in shown[20:]], axis=0).mean() < 0.5 * raw


@pytest.mark.parametrize("speed", [0.3, 2.0, 10.0])
@pytest.mark.parametrize("rate", [8, 25])
def test_a_moving_face_is_never_far_behind(speed: float, rate: float) -> None:
    """Speeds in face sizes a second; the face rests, then moves evenly."""
    size = 100.0
    steady = LandmarkFilter(face(size=size), 0.0)
    lags = []
    for index in range(1, 4 * rate):
        time = index / rate
        x = speed * size * max(0.0, time - 1)
        lags.append((x - steady.update(face(x, size), time).box[0]) / size)
    assert max(lags) < 0.1 + 2 * LAG
    assert lags[-1] < LAG


def test_motion_that_is_known_is_followed_without_any_lag() -> None:
    steady = LandmarkFilter(face(0.0), 0.0)
    for index in range(1, 20):
        steady.carry(SimilarityMotion((0.0, 0.0), (7.0, 0.0)))
        shown = steady.update(face(7.0 * index), index / 8)
        np.testing.assert_allclose(shown.landmarks, face(7.0 * index).landmarks, atol=1e-3)
        np.testing.assert_allclose(shown.box, face(7.0 * index).box, atol=1e-3)
    for index in range(1, 4):  # without a detection between
        np.testing.assert_allclose(
            steady.carry(SimilarityMotion((0.0, 0.0), (7.0, 0.0))).box, face(133 + 7 * index).box
        )
    growing = LandmarkFilter(face(), 0.0)
    for index in range(1, 20):
        growing.carry(SimilarityMotion((0.0, 0.0), (0.0, 0.0), 1.05))
        shown = growing.update(face(size=128 * 1.05**index), index / 8)
        np.testing.assert_allclose(shown.box, face(size=128 * 1.05**index).box, atol=1e-3)


def test_after_a_gap_nothing_is_dragged_along() -> None:
    steady = LandmarkFilter(face(0.0), 0.0)
    np.testing.assert_array_equal(steady.update(face(300.0), 0.8).landmarks, face(300.0).landmarks)
    np.testing.assert_array_equal(steady.update(face(900.0), 0.8).landmarks, face(900.0).landmarks)  # the same moment


def test_a_given_box_is_kept_while_its_landmarks_are_steadied() -> None:
    steady = LandmarkFilter(face(0.0), 0.0)
    given = GivenFace((20.0, 0.0, 128.0, 128.0), face(20.0).landmarks, 1.0, 7)
    shown = steady.update(given, 0.04)
    assert shown.box == given.box
    assert isinstance(shown, GivenFace) and shown.id == 7
    assert shown.landmarks[0, 0] < given.landmarks[0, 0]


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(-1e5, 1e5), st.floats(0, 1e4)),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_is_seen_the_shown_lies_between_old_and_new(steps: list[tuple[float, float, float]]) -> None:
    steady, time, shown = LandmarkFilter(face(0.0, 50), 0.0), 0.0, face(0.0, 50)
    for elapsed, x, size in steps:
        before, time, seen = shown.landmarks, time + elapsed, face(x, size)
        shown = steady.update(seen, time)
        slack = 1e-3 + 1e-5 * abs(x) + 1e-5 * np.abs(before).max() + 1e-5 * size
        assert np.isfinite(shown.landmarks).all()
        assert (shown.landmarks >= np.minimum(before, seen.landmarks) - slack).all()
        assert (shown.landmarks <= np.maximum(before, seen.landmarks) + slack).all()
