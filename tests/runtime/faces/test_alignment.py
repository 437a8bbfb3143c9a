"""Alignment: landmarks end where the template says, whatever the face's place, size and tilt."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.faces.alignment import TEMPLATE, TEMPLATE_SIZE, align, resize_crop, similarity


@given(
    st.floats(0.05, 20),
    st.floats(-3.1, 3.1),
    st.floats(-500, 2000),
    st.floats(-500, 2000),
    st.sampled_from([64, 112, 224]),
)
def test_similar_faces_map_exactly_onto_the_template(scale: float, angle: float, x: float, y: float, size: int) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (TEMPLATE @ turn.T + [x, y]).astype(np.float32)
    matrix = similarity(landmarks, size)
    mapped = landmarks @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(mapped, TEMPLATE * size / TEMPLATE_SIZE, atol=0.05 * max(1.0, 1 / scale))


def test_landmarks_in_one_point_do_not_break_it() -> None:
    crop = align(np.full((50, 60, 3), 7, np.uint8), np.full((5, 2), 20, np.float32), 112)
    assert crop.shape == (112, 112, 3)
    assert (crop == 7).all()


@pytest.mark.parametrize("size", [1e3, 1e9, 1e25])
def test_a_face_larger_than_any_picture_does_not_break_it(size: float) -> None:
    crop = align(np.full((50, 60, 3), 7, np.uint8), (TEMPLATE * size).astype(np.float32), 112)
    assert crop.shape == (112, 112, 3)
    assert (crop == 7).all()


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.7, 5.0, 6.0, 9.0, 13.0])
def test_a_photograph_comes_back_whatever_its_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    crop = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8), (0, 0), 4)
    side = round(128 * scale)
    image = cv2.copyMakeBorder(
        cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC),
        *(40, 10, 30, 20),
        cv2.BORDER_REPLICATE,
    )
    landmarks = (TEMPLATE + 0.5) * np.float32(side / 128) - 0.5 + np.array([30, 40], np.float32)
    found = align(image, landmarks.astype(np.float32), 128)
    difference = np.abs(found.astype(int) - crop.astype(int))[8:-8, 8:-8]
    assert difference.mean() < 1.5


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0, 4.4, 7.0])
def test_what_a_picture_of_any_size_shows_lies_where_it_belongs_up_to_the_edge(scale: float) -> None:
    landmarks = ((TEMPLATE + 0.5) * scale - 0.5 + 40).astype(np.float32)  # the picture's pixels are parts of the crop's
    y, x = np.mgrid[: round(128 * scale) + 80, : round(128 * scale) + 80]
    for place in ((64, 64), (4, 123), (123, 4)):
        dot = np.array(place) * scale + (scale - 1) / 2 + 40
        light = 200 * np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * (1.2 * scale) ** 2))
        crop = align(np.repeat(light[..., None], 3, axis=2).round().astype(np.uint8), landmarks, 128)[..., 0]
        weights = crop / crop.sum()
        found = (weights.sum(axis=0) @ np.arange(128), weights.sum(axis=1) @ np.arange(128))
        assert found == pytest.approx(place, abs=0.1)


@pytest.mark.parametrize("scale", [2.2, 4.5, 6.5])
def test_stripes_too_fine_for_the_crop_become_grey(scale: float) -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    assert align(stripes, TEMPLATE * np.float32(scale), 128).std() < 2
    assert resize_crop(stripes, 300).std() < 50  # 127 where pixels are left out
