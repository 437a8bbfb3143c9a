"""Tracks: one id per person for as long as they stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.faces.detection import Face, FaceDetector, GivenFace
from dfer.runtime.faces.tracking import Tracker
from dfer.runtime.procedural import ActionUnits, Identity, Pose, draw_background, draw_face
from encounters import Scene, crossing, follow, hiding, turning_back


def face(x: float, y: float = 50, size: float = 40) -> Face:
    return Face((x, y, size, size), np.zeros((5, 2), np.float32), 0.9)


def ids(tracker: Tracker, faces: list[Face], time: float) -> list[int]:
    return [track.id for track in tracker.update(faces, time)]


def test_two_people_keep_their_ids_while_they_move_and_swap_order() -> None:
    tracker = Tracker()
    for step in range(30):
        left, right = face(10 + 2 * step), face(300 - 2 * step, y=150)
        pair = [left, right] if step % 2 else [right, left]
        expected = [1, 2] if step % 2 else [2, 1]
        if step == 0:
            tracker.update([left, right], 0.0)
        else:
            assert ids(tracker, pair, step / 8) == expected


def test_a_moving_face_is_found_again_after_almost_a_second() -> None:
    tracker = Tracker()
    for step in range(8):
        tracker.update([face(5.0 * step)], step / 8)
    assert ids(tracker, [face(5.0 * 14)], 14 / 8) == [1]


def test_after_more_than_two_seconds_it_is_somebody_new() -> None:
    tracker = Tracker()
    tracker.update([face(10)], 0.0)
    assert ids(tracker, [face(10)], 1.9) == [1]
    assert ids(tracker, [face(10)], 4.0) == [2]


def test_a_face_elsewhere_is_somebody_new() -> None:
    tracker = Tracker()
    tracker.update([face(10)], 0.0)
    assert ids(tracker, [face(400)], 0.1) == [2]


def test_a_face_of_another_size_is_somebody_new() -> None:
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    assert ids(tracker, [face(90, 40, 90)], 0.1) == [2]


def test_a_fast_move_without_overlap_keeps_the_id() -> None:
    tracker = Tracker()
    tracker.update([face(10)], 0.0)
    assert ids(tracker, [face(60)], 0.125) == [1]


def test_nearer_track_wins_when_a_face_vanishes() -> None:
    tracker = Tracker()
    tracker.update([face(10), face(80)], 0.0)
    assert ids(tracker, [face(82)], 0.1) == [2]


boxes = st.lists(st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(0, 200)), max_size=6)


@given(st.lists(boxes, max_size=12))
def test_ids_are_never_shared_or_used_again(frames: list[list[tuple[float, float, float]]]) -> None:
    tracker = Tracker()
    born: set[int] = set()
    for index, frame in enumerate(frames):
        before = {track.id for track in tracker.tracks}
        now = ids(tracker, [face(*box) for box in frame], index / 8)
        assert len(now) == len(set(now)) == len(frame)
        fresh = set(now) - before
        assert not fresh & born
        born |= fresh


@pytest.mark.parametrize("seed", [0, 1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("scene", [crossing, turning_back, hiding])
def test_people_who_cross_turn_back_or_hide_for_a_second_keep_their_ids(
    scene: Callable[[int], Scene], seed: int
) -> None:
    found = follow(scene(seed), seed, FaceDetector(min_score=0.4, min_face=32), Tracker())
    assert [len(set(ids)) for ids in found] == [1] * len(found), "an id changed"
    assert len({ids[0] for ids in found}) == len(found), "two people shared an id"
    assert min(map(len, found)) > 25


def person(seed: int, x: float, y: float = 180) -> np.ndarray:
    """A picture of one person."""
    image = draw_background(Identity.sample(np.random.default_rng(0)), 360, 640)
    draw_face(image, Identity.sample(np.random.default_rng(seed)), ActionUnits(), Pose(), (x, y), 110)
    return image


def test_a_person_of_other_colours_in_the_same_place_is_somebody_new_and_the_first_is_known_again() -> None:
    detector, tracker, numbers = FaceDetector(), Tracker(), []
    for index, seed in enumerate([4] * 6 + [6] * 6 + [4] * 6):
        image = person(seed, 300 + index)
        numbers.append([track.id for track in tracker.update(detector.detect(image), index / 8, image)])
    assert numbers == [[1]] * 6 + [[2]] * 6 + [[1]] * 6


def test_between_detections_a_face_is_carried_with_its_landmarks() -> None:
    detector, tracker = FaceDetector(), Tracker()
    image = person(4, 200)
    (start,) = [track.face for track in tracker.update(detector.detect(image), 0.0, image)]
    for index in range(1, 11):
        tracks = tracker.carry(person(4, 200 + 9 * index), index / 25)
    (track,) = tracks
    assert (track.id, track.time, track.seen) == (1, 0.4, 0.0)
    np.testing.assert_allclose(track.face.landmarks - start.landmarks, [[90, 0]] * 5, atol=3)
    assert track.face.box[0] - start.box[0] == pytest.approx(90, abs=4)


def test_a_face_that_was_in_view_all_the_time_keeps_its_id_however_seldom_it_is_searched() -> None:
    detector, tracker = FaceDetector(), Tracker()
    image = person(4, 200)
    for index in range(121):
        if index % 60 == 0:  # every two and a half seconds
            tracks = tracker.update(detector.detect(image), index / 24, image)
        else:
            tracks = tracker.carry(image, index / 24)
        assert [track.id for track in tracks] == [1]


def test_only_faces_seen_at_the_last_detection_are_carried() -> None:
    detector, tracker = FaceDetector(), Tracker()
    image, empty = person(4, 200), np.full((360, 640, 3), 90, np.uint8)
    tracker.update(detector.detect(image), 0.0, image)
    tracker.update([], 0.1, empty)
    assert tracker.carry(empty, 0.15) == []
    assert [track.id for track in tracker.tracks] == [1]  # awaited for a while


def test_where_nothing_can_be_followed_velocity_carries_the_face() -> None:
    tracker, grey = Tracker(), np.full((360, 640, 3), 90, np.uint8)
    for step in range(9):
        tracker.update([face(100 + 10 * step)], step / 10, grey)
    (track,) = tracker.carry(grey, 0.85)
    assert track.face.box[0] == pytest.approx(185, abs=4)


def test_an_unseen_face_glides_on_ever_slower() -> None:
    tracker = Tracker()
    for step in range(20):
        (track,) = tracker.update([face(10.0 * step)], step / 10)
    x = [track.box_at(1.9 + ahead)[0] - track.face.box[0] for ahead in (0.1, 1.0, 10.0)]
    assert x[0] == pytest.approx(10, abs=2)
    assert x[0] < x[1] < 50 + 5
    assert x[2] < 50 + 5


def test_a_weak_detection_keeps_a_track_and_begins_none() -> None:
    tracker = Tracker()
    weak = Face((10, 50, 40, 40), np.zeros((5, 2), np.float32), 0.5)
    assert tracker.update([weak], 0.0) == []
    assert ids(tracker, [face(10)], 0.1) == [1]
    assert ids(tracker, [weak], 0.2) == [1]
    assert ids(tracker, [weak, face(12)], 0.3) == [1]  # the better one has it


def test_given_ids_are_kept_and_never_given_to_others() -> None:
    tracker = Tracker()

    def given(x: float, number: int | None) -> GivenFace:
        return GivenFace((x, 50, 40, 40), np.zeros((5, 2), np.float32), 1.0, number)

    assert ids(tracker, [given(10, 7), given(300, 2)], 0.0) == [7, 2]
    assert ids(tracker, [given(300, 7), given(10, 2)], 0.1) == [7, 2]
    assert ids(tracker, [given(500, None)], 0.2) == [8]
    assert ids(tracker, [given(10, 7)], 60.0) == [7]


def test_one_filmed_person_is_one_track(shared_data: Path) -> None:
    capture = cv2.VideoCapture(str(shared_data / "videos" / "WolfgangLanger_Pexels.mp4"))
    detector, tracker, numbers = FaceDetector(min_score=0.4, min_face=32), Tracker(), set()
    for index in range(300):
        image = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        time = index / 24
        detected = index % 3 == 0
        tracks = tracker.update(detector.detect(image), time, image) if detected else tracker.carry(image, time)
        numbers.update(track.id for track in tracks)
        assert len(tracks) == 1
    assert numbers == {1}
