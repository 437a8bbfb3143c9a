"""Tracks: one id per person for as long as they stay."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.faces import Face
from dfer.runtime.tracks import Tracker


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


def test_after_more_than_a_second_it_is_somebody_new() -> None:
    tracker = Tracker()
    tracker.update([face(10)], 0.0)
    assert ids(tracker, [face(10)], 1.2) == [2]


def test_a_face_elsewhere_is_somebody_new() -> None:
    tracker = Tracker()
    tracker.update([face(10)], 0.0)
    assert ids(tracker, [face(400)], 0.1) == [2]


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
