"""Copies among photographs: found whatever was done to them, and different people left apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.train.preparation import copies
from dfer.train.preparation.copies import ALIKE, find_copies


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


def test_copies_in_other_blocks_are_found_and_the_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_ROWS", 16)
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (32, 32), np.uint8) for _ in range(60)]
    while len(crops) < 110:
        crops.append(crops[random.integers(len(crops))][:, :: random.choice([-1, 1])])
    flat = np.array([[crop.ravel(), crop[:, ::-1].ravel()] for crop in crops], np.float64)
    flat -= flat.mean(axis=2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    alike = np.einsum("imk,jk->imj", flat, flat[:, 0]).max(axis=1) >= ALIKE
    expected = alike.argmax(axis=1)  # a copy of a copy is alike here, too
    told: list[float] = []
    assert find_copies(iter(crops), told.append).tolist() == expected.tolist()
    assert (expected < 60).all() and len(set(expected.tolist())) == 60
    assert len(told) > 7 and told == sorted(told) and told[-1] == 1
