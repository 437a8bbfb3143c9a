"""Smaller pictures are averages of larger ones, whatever their sizes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.faces.scaling import average_blocks, cover, shrink


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 8, 12])
def test_a_pixel_is_the_average_of_its_block(factor: int) -> None:
    image = np.random.default_rng(factor).integers(0, 256, (5 * factor, 7 * factor, 3), np.uint8)
    means = image.reshape(5, factor, 7, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(average_blocks(image, factor), means, atol=1.5)  # rounded at every halving


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 90), st.integers(1, 90))
def test_any_picture_gets_any_size_and_keeps_its_colour(width: int, height: int, across: int, down: int) -> None:
    image = np.full((height, width, 3), (10, 100, 200), np.uint8)
    assert (shrink(image, across, down) == image[0, 0]).all()
    assert shrink(image, across, down).shape == (down, across, 3)


def test_a_shrunk_picture_shows_the_same_in_the_same_places() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(1).random((721, 1279, 3)), (0, 0), 40)
    image = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for size in ((640, 360), (320, 180), (427, 240), (101, 57)):
        averaged = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        assert np.abs(shrink(image, *size).astype(int) - averaged).max() <= 3, size


def test_fine_texture_becomes_grey() -> None:
    stripes = np.zeros((960, 1280, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(shrink(stripes, 320, 240).astype(int) - 127).max() <= 1


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(1, 5000), st.sampled_from([1, 2, 3, 4, 6, 8, 64, 2**14]))
def test_steps_cover_what_lies_in_the_picture(low: float, length: float, size: int, step: int) -> None:
    first, last = cover(low, low + length, size, step)
    assert first % step == last % step == 0
    assert 0 <= first < last <= max(step, size)
    whole = size // step * step
    if low < whole and low + length > 0:
        assert first <= max(low, 0)
        assert last >= min(low + length, whole)
