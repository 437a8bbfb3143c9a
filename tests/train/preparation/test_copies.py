"""Copies among photographs: found whatever was done to them, and different people left apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.train.preparation.copies import find_copies


@pytest.fixture(scope="module")
def faces(face_crops: np.ndarray) -> list[np.ndarray]:
    return list(face_crops)


def test_copies_are_found_mirrored_compressed_and_grey_too(faces: list[np.ndarray]) -> None:
    one, other = faces[0], faces[1]
    compressed = cv2.imdecode(cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    darker = (one * 0.6 + 20).astype(np.uint8)
    grey = cv2.cvtColor(one, cv2.COLOR_RGB2GRAY)
    crops = [other, one, one[:, ::-1], compressed, darker, grey, other.copy()]
    assert find_copies(crops).tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_different_people_are_no_copies(faces: list[np.ndarray]) -> None:
    assert find_copies(faces).tolist() == list(range(len(faces)))


def test_nothing_and_flat_pictures_do_no_harm() -> None:
    assert find_copies([]).tolist() == []
    assert find_copies([np.full((8, 8), 7, np.uint8), np.full((8, 8), 200, np.uint8)]).tolist() == [0, 1]
