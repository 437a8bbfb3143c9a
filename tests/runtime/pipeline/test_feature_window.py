"""The feature window: by time, without gaps, honest about its beginning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.errors import ParameterError
from dfer.runtime.pipeline.feature_window import FeatureWindow, check_sampling


def filled(times: list[float], length: int = 16, seconds: float = 2.0, step: float = 0.125) -> FeatureWindow:
    """A window whose features hold their own time."""
    window = FeatureWindow(length, seconds, step)
    for time in times:
        window.push(time, np.array([time], np.float32))
    return window


def test_full_window_holds_every_sample_once_in_order() -> None:
    times = [index * 0.125 for index in range(40)]
    window = filled(times)
    assert not window.warmup
    np.testing.assert_allclose(window.stack()[:, 0], times[-16:], atol=1e-6)


def test_filling_window_is_padded_with_its_oldest_feature() -> None:
    window = filled([0.0, 0.125, 0.25])
    assert window.warmup
    assert window.stack()[:, 0].tolist() == [0.0] * 14 + [0.125, 0.25]


def test_it_is_warm_from_the_sixteenth_sample_on() -> None:
    times = [index * 0.125 for index in range(16)]
    assert filled(times[:15]).warmup
    assert not filled(times).warmup


@pytest.mark.parametrize(("gap", "kept"), [(0.125, True), (0.25, True), (0.375, False), (5.0, False)])
def test_one_missing_sample_is_bridged_and_more_reset(gap: float, kept: bool) -> None:
    times = [index * 0.125 for index in range(16)]
    window = filled([*times, times[-1] + gap])
    assert window.warmup is not kept
    assert bool(window.stack()[0, 0] < times[-1]) is kept


def test_samples_left_out_under_load_are_bridged_up_to_half_the_window() -> None:
    for missed, gap, kept in ((3, 0.5, True), (7, 1.0, True), (12, 1.5, False), (3, 0.9, False)):
        window = filled([index * 0.125 for index in range(16)])
        window.push(1.875 + gap, np.zeros(1, np.float32), missed)
        assert bool(window.stack()[0, 0]) is kept


def test_where_sampling_is_slow_one_missing_sample_is_bridged_too() -> None:
    window = filled([0.0, 1.0, 3.0], step=1.0)
    assert window.stack()[0, 0] == 1.0


@pytest.mark.parametrize(("seconds", "fps"), [(1.9, 1.0), (0.0, 8.0), (61.0, 8.0), (2.0, 0.0), (2.0, 241.0)])
def test_impossible_windows_are_refused(seconds: float, fps: float) -> None:
    check_sampling(2.0, 1.0)
    check_sampling(60.0, 240.0)
    with pytest.raises(ParameterError):
        check_sampling(seconds, fps)


def test_slow_sampling_repeats_the_nearest_feature() -> None:
    window = filled([0.0, 0.5, 1.0, 1.5, 2.0], step=0.5)
    assert not window.warmup
    values, counts = np.unique(window.stack()[:, 0], return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert counts.max() <= 4


@given(
    st.lists(st.floats(0.01, 0.25), min_size=1, max_size=200),
    st.integers(2, 32),
    st.floats(0.5, 4.0),
)
def test_any_sampling_gives_a_rising_window_that_ends_now(steps: list[float], length: int, seconds: float) -> None:
    times = np.cumsum(steps).tolist()
    window = filled(times, length, seconds, step=0.125)
    stacked = window.stack()[:, 0]
    assert stacked.shape == (length,)
    assert stacked[-1] == np.float32(times[-1])
    assert (np.diff(stacked) >= 0).all()
    assert stacked[0] >= times[-1] - seconds - 0.25
