"""Motion between detections: a face that moves is followed to the pixel, and never handed to someone in front."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.faces.optical_flow import MedianFlow
from dfer.runtime.procedural import ActionUnits, Identity, Pose, draw_background, draw_face

PERSON, OTHER = (Identity.sample(np.random.default_rng(seed)) for seed in (3, 8))


def picture(
    *people: tuple[Identity, float, float, float], size: tuple[int, int] = (360, 640)
) -> tuple[np.ndarray, list[np.ndarray]]:
    """An RGB picture of people given as (identity, x, y, height), and where their landmarks are."""
    image = draw_background(PERSON, *size)
    return image, [draw_face(image, who, ActionUnits(), Pose(), (x, y), height) for who, x, y, height in people]


def face(landmarks: np.ndarray) -> Face:
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    width, height = 2.2 * (right - left), 2.6 * (bottom - top)
    x, y = (left + right - width) / 2, (top + bottom - height) / 2
    return Face((float(x), float(y), float(width), float(height)), landmarks, 0.9)


@pytest.mark.parametrize(("height", "size"), [(120, (360, 640)), (60, (1080, 1920)), (300, (360, 640))])
@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (18, 4), (-25, 10)])
def test_a_face_is_followed_to_about_a_pixel(shift: tuple[int, int], height: int, size: tuple[int, int]) -> None:
    before, (was,) = picture((PERSON, 300, 180, height), size=size)
    after, (now,) = picture((PERSON, 300 + shift[0], 180 + shift[1], height), size=size)
    motion = MedianFlow()
    assert motion.follow(before, [face(was).box]) == [None]  # nothing to compare with
    motion.keep(before, [face(was).box])
    (motion,) = motion.follow(after, [face(was).box])
    assert motion is not None
    moved = motion.face(face(was))
    np.testing.assert_allclose(moved.landmarks, now, atol=1.5)
    np.testing.assert_allclose(moved.box, face(now).box, atol=4)


def test_a_face_that_comes_nearer_grows() -> None:
    before, (was,) = picture((PERSON, 300, 180, 100))
    after, (now,) = picture((PERSON, 306, 182, 108))
    motion = MedianFlow()
    motion.keep(before, [face(was).box])
    (motion,) = motion.follow(after, [face(was).box])
    assert motion is not None
    assert motion.scale == pytest.approx(1.08, abs=0.03)
    np.testing.assert_allclose(motion.face(face(was)).landmarks, now, atol=2)


@pytest.mark.parametrize("height", [70, 140])
def test_a_face_of_quite_another_size_is_no_motion_of_the_first(height: int) -> None:
    before, (was,) = picture((PERSON, 300, 180, 100))
    after, _ = picture((PERSON, 300, 180, height))
    motion = MedianFlow()
    motion.keep(before, [face(was).box])
    assert motion.follow(after, [face(was).box]) == [None]


def test_a_face_is_not_carried_off_by_a_person_who_passes_in_front() -> None:
    motion = MedianFlow()
    before, (back, front) = picture((OTHER, 300, 180, 100), (PERSON, 390, 180, 130))
    after, _ = picture((OTHER, 300, 180, 100), (PERSON, 375, 180, 130))
    motion.keep(before, [face(back).box, face(front).box])
    behind, passing = motion.follow(after, [face(back).box, face(front).box])
    assert passing is not None
    assert passing.shift[0] == pytest.approx(-15, abs=2)
    assert behind is None or abs(behind.shift[0]) < 2


def test_a_cut_to_another_scene_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    motion = MedianFlow()
    before, (was,) = picture((PERSON, 300, 180, 120))
    motion.keep(before, [face(was).box])
    assert motion.follow(rng.integers(0, 256, before.shape, np.uint8), [face(was).box]) == [None]
    assert motion.follow(np.full_like(before, 90), [face(was).box]) == [None]


def test_pictures_of_another_size_are_not_compared() -> None:
    motion = MedianFlow()
    motion.keep(picture((PERSON, 300, 180, 120))[0], [(10, 10, 30, 30)])
    assert motion.follow(np.zeros((90, 160, 3), np.uint8), [(10, 10, 30, 30)]) == [None]
    assert motion.follow(np.zeros((1, 1, 3), np.uint8), []) == []


def test_boxes_beyond_the_picture_and_empty_ones_do_no_harm() -> None:
    motion = MedianFlow()
    image, _ = picture((PERSON, 300, 180, 120))
    beyond, empty = [(-500.0, 0.0, 40.0, 40.0), (700.0, 400.0, 40.0, 40.0)], (50.0, 50.0, 0.0, 0.0)
    for boxes in (beyond[:1], beyond[1:], beyond, [*beyond, empty]):
        motion.keep(image, boxes)
        motions = motion.follow(image, boxes)
        assert len(motions) == len(boxes)
        assert set(motions[:2]) == {None}


def test_a_filmed_face_stays_where_the_detector_finds_it(shared_data) -> None:  # type: ignore[no-untyped-def]
    """Half a second without any detection."""
    capture = cv2.VideoCapture(str(shared_data / "videos" / "WolfgangLanger_Pexels.mp4"))
    detector, flow, errors = FaceDetector(), MedianFlow(), []
    carried: Face | None = None
    for index in range(240):
        image = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        (motion,) = flow.follow(image, [carried.box]) if carried else [None]
        if index % 12 == 0:
            if carried and motion:
                (found, *_) = detector.detect(image)
                errors.append(
                    np.linalg.norm(motion.face(carried).landmarks - found.landmarks, axis=1).mean() / found.size
                )
            carried = detector.detect(image)[0]
        elif carried and motion:
            carried = motion.face(carried)
        flow.keep(image, [carried.box] if carried else [])
    assert len(errors) >= 15
    assert np.median(errors) < 0.06
