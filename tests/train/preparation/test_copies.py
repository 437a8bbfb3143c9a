"""Copies among photographs: found whatever was done to them, and different people left apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.train.preparation import copies
from dfer.train.preparation.copies import ALIKE, SAME, find_copies


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


def test_what_is_like_a_copy_but_not_like_its_original_is_kept() -> None:
    """As in a film, whose frames are each like the next: its first and its last may show different expressions."""
    noise = np.random.default_rng(0).normal(0, 30, (2, 32, 32))
    angles = np.radians([0, 15, 30])  # correlations 0.97 of neighbours, and 0.87
    film = [np.uint8(np.clip(128 + np.cos(angle) * noise[0] + np.sin(angle) * noise[1], 0, 255)) for angle in angles]
    assert find_copies(film).tolist() == [0, 0, 2]


def test_pictures_said_to_differ_are_copies_only_if_they_are_the_same(faces: list[np.ndarray]) -> None:
    def cut_elsewhere(face: np.ndarray, pixels: float) -> np.ndarray:
        shift = np.array([[1, 0, pixels], [0, 1, 0]], np.float32)
        return np.asarray(cv2.warpAffine(face, shift, face.shape[1::-1], borderMode=cv2.BORDER_REPLICATE), np.uint8)

    crops = [faces[0], cut_elsewhere(faces[0], 1.5), cut_elsewhere(faces[0], 0.1), faces[0]]
    grey = [
        cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA) for crop in crops
    ]
    assert ALIKE < np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1] < SAME
    assert find_copies(crops).tolist() == [0, 0, 0, 0]
    assert find_copies(crops, lambda ones, other: ones < 0).tolist() == [0, 1, 0, 0]


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
    assert find_copies(iter(crops), progress=told.append).tolist() == expected.tolist()
    assert (expected < 60).all() and len(set(expected.tolist())) == 60
    assert len(told) > 7 and told == sorted(told) and told[-1] == 1
