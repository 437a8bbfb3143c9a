"""Quality: high for what photographs show, low for what nobody could read."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from dfer.runtime.faces.alignment import TEMPLATE, align
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.faces.quality import face_quality, sharpness
from dfer.runtime.predictions import POOR


def good_face(side: float = 100) -> Face:
    return Face((0, 0, side, side), TEMPLATE * (side / 128), 0.93)


def test_each_of_four_faults_alone_makes_a_face_poor() -> None:
    assert face_quality(good_face(), 0.02) == 1
    assert face_quality(replace(good_face(), score=0.45), 0.02) < POOR
    assert face_quality(good_face(30), 0.02) < POOR
    assert face_quality(good_face(), 0.003) < POOR
    for eye in (0, 1):  # the nose near either
        profile = TEMPLATE.copy()
        profile[2, 0] = profile[eye, 0] + 1 - 2 * eye
        assert face_quality(replace(good_face(), landmarks=profile), 0.02) < POOR


def test_it_lies_between_0_and_1() -> None:
    assert face_quality(good_face(80), 0.9) == 1  # larger, nothing is gained
    assert face_quality(good_face(70), 0.02) < 1
    assert face_quality(good_face(10), 0.02) == face_quality(good_face(), 0.0) == 0


def test_sharpness_falls_with_blur_and_not_with_light(face_frames: list[np.ndarray]) -> None:
    face = FaceDetector().detect(face_frames[0])[0]
    crop = align(face_frames[0], face.landmarks, 112)
    blurred = [sharpness(cv2.GaussianBlur(crop, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert sharpness(crop) > blurred[0] > blurred[1] > blurred[2] > blurred[3]
    assert sharpness(crop // 2) == pytest.approx(sharpness(crop), rel=0.1)
    enlarged = cv2.resize(crop, (336, 336), interpolation=cv2.INTER_CUBIC)
    assert sharpness(enlarged) == pytest.approx(
        sharpness(cv2.resize(crop, (84, 84), interpolation=cv2.INTER_AREA)), rel=0.2
    )
    assert np.isfinite(sharpness(np.zeros((8, 8, 3), np.uint8)))
