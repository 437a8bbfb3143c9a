"""Finding faces: how small, how far turned, at what cost in precision."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.pipeline.stream import DetectionScheduler


def filmed(path: Path, every: int) -> list[np.ndarray]:
    capture, frames, index = cv2.VideoCapture(str(path)), [], 0
    while (read := capture.read())[0]:
        if index % every == 0:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        index += 1
    return frames


def test_faces_under_min_face_are_left_out(face_frames: list[np.ndarray]) -> None:
    small = cv2.resize(face_frames[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    both = np.full((240, 480, 3), 128, np.uint8)
    both[:, :320], both[:120, 320:] = face_frames[0], small
    large, little = FaceDetector().detect(both)
    assert large.box[2] > 1.8 * little.box[2]
    between = (large.box[2] + little.box[2]) / 2
    (found,) = FaceDetector(min_face=between).detect(both)
    error = np.linalg.norm(found.landmarks - large.landmarks, axis=1).mean()
    assert error < 0.08 * large.size
    assert len(FaceDetector(min_face=little.box[2] / 2).detect(both)) == 2
    assert FaceDetector(min_face=2 * large.box[2]).detect(both) == []


def test_min_face_never_enlarges_and_max_side_still_holds(face_frames: list[np.ndarray]) -> None:
    plain, tiny = FaceDetector().detect(face_frames[0]), FaceDetector(min_face=4).detect(face_frames[0])
    np.testing.assert_array_equal(plain[0].landmarks, tiny[0].landmarks)
    narrow, both = FaceDetector(max_side=160), FaceDetector(max_side=160, min_face=20)
    np.testing.assert_array_equal(narrow.detect(face_frames[0])[0].landmarks, both.detect(face_frames[0])[0].landmarks)


def test_large_faces_are_found_in_half_the_picture_and_all_others_in_the_whole(face_frames: list[np.ndarray]) -> None:
    detector = FaceDetector(min_face=40)
    large = cv2.resize(face_frames[0], None, fx=4, fy=4)
    whole = detector.detect(large)
    half = detector.detect(large, whole)
    assert 0 < np.linalg.norm(half[0].landmarks - whole[0].landmarks, axis=1).mean() < 0.03 * whole[0].size
    missing = detector.detect(large, [*whole, *whole])
    np.testing.assert_array_equal(missing[0].landmarks, whole[0].landmarks)
    little = detector.detect(face_frames[0])
    np.testing.assert_array_equal(detector.detect(face_frames[0], little)[0].landmarks, little[0].landmarks)


def test_a_small_face_that_joins_large_ones_is_found_within_half_a_second(face_frames: list[np.ndarray]) -> None:
    alone = np.full((960, 1600, 3), 128, np.uint8)
    alone[:, :1280] = cv2.resize(face_frames[0], None, fx=4, fy=4)
    joined = alone.copy()
    joined[:120, 1280:1440] = cv2.resize(face_frames[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    scheduler, found = DetectionScheduler(FaceDetector()), {}
    for index in range(24):
        if scheduler.should_detect(index, index / 10, wanted=True):
            found[index] = len(scheduler.detect(joined if index > 6 else alone))
    assert all(count == 1 for index, count in found.items() if index < 7)
    assert min(index for index, count in found.items() if count == 2) < 12
    assert len(found) < 16  # and half as often while nothing moves


@pytest.mark.parametrize(
    "name", ["WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov", "noface_face.mov", "no_face.mp4"]
)
def test_the_same_filmed_faces_are_found_when_only_larger_ones_are_wanted(shared_data: Path, name: str) -> None:
    whole, less, errors = FaceDetector(), FaceDetector(min_face=32), []
    for image in filmed(shared_data / "videos" / name, 12):
        many, few = whole.detect(image), less.detect(image)
        assert len(many) == len(few)
        for one, other in zip(many, few, strict=True):
            errors.append(np.linalg.norm(one.landmarks - other.landmarks, axis=1).mean() / one.size)
            assert one.frontal and other.frontal
    assert bool(errors) == (name != "no_face.mp4")
    assert np.median(errors or [0]) < 0.05


def test_five_people_in_a_photograph_are_found_either_way(shared_data: Path) -> None:
    (image,) = [cv2.cvtColor(cv2.imread(str(shared_data / "videos" / "multi_face.jpg")), cv2.COLOR_BGR2RGB)]
    assert len(FaceDetector().detect(image)) == len(FaceDetector(min_face=40).detect(image)) == 5


def test_a_face_is_frontal_while_the_nose_lies_between_the_eyes_however_the_head_leans() -> None:
    for degrees in (0, 40, -90, 180):
        turn = cv2.getRotationMatrix2D((64, 64), degrees, 1.0)

        def turned(points: np.ndarray, turn: np.ndarray = turn) -> Face:
            return Face((0, 0, 128, 128), (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32), 0.9)

        assert turned(TEMPLATE).frontal
        for shift in (-25, 25):  # beyond either eye
            profile = TEMPLATE.copy()
            profile[2, 0] += shift
            assert not turned(profile).frontal
    assert not Face((0, 0, 10, 10), np.zeros((5, 2), np.float32), 0.9).frontal


def test_photographed_profiles_are_told_from_turned_heads(shared_data: Path) -> None:
    """Few press photographs are profiles; the sample is a tenth."""
    detector, frontal = FaceDetector(), []
    for path in sorted((shared_data / "faces" / "images").glob("*.jpg"))[::20]:
        faces = detector.detect(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        frontal.extend(face.frontal for face in faces[:1])
    assert len(frontal) > 400
    assert 0.97 < np.mean(frontal) < 1
