"""Shedding: bounded work, nobody forgotten, nothing of a file lost."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.pipeline.scheduler import Scheduler


@dataclass
class Face:
    live: bool
    last_served: int = -1


def test_before_anything_is_measured_all_faces_are_encoded() -> None:
    faces = [Face(live=True) for _ in range(5)]
    assert Scheduler(0.125).choose(faces) == faces


def test_live_faces_get_what_fits_into_a_sampling_step_and_take_turns() -> None:
    scheduler = Scheduler(0.125)
    scheduler.learn(0.08, 2)  # 40 ms each: three fit
    faces = [Face(live=True) for _ in range(8)]
    turns: list[int] = []
    for _ in range(80):
        chosen = scheduler.choose(faces)
        assert len(chosen) == 3
        for face in chosen:
            face.last_served = len(turns)
            turns.append(next(index for index, one in enumerate(faces) if one is face))
    counts = [turns.count(index) for index in range(8)]
    assert max(counts) - min(counts) <= 1


def test_a_machine_too_slow_for_one_face_still_reads_one() -> None:
    scheduler = Scheduler(0.125)
    scheduler.learn(0.7, 1)
    assert len(scheduler.choose([Face(live=True) for _ in range(8)])) == 1


def test_cost_follows_the_machine() -> None:
    scheduler = Scheduler(0.1)
    scheduler.learn(0.1, 1)
    for _ in range(50):
        scheduler.learn(0.04, 4)
    assert len(scheduler.choose([Face(live=True) for _ in range(12)])) >= 9


def test_one_slow_batch_weighs_half() -> None:
    """As when another program ran for a moment."""
    scheduler = Scheduler(0.1)
    scheduler.learn(0.01, 1)
    scheduler.learn(0.04, 1)
    assert len(scheduler.choose([Face(live=True) for _ in range(12)])) == 4


@given(st.lists(st.booleans(), max_size=20), st.floats(1e-4, 5), st.integers(1, 8))
def test_faces_of_files_are_never_left_out(live: list[bool], seconds: float, count: int) -> None:
    scheduler = Scheduler(0.125)
    scheduler.learn(seconds, count)
    faces = [Face(one, last_served) for last_served, one in enumerate(live)]
    chosen = scheduler.choose(faces)
    assert [face for face in faces if not face.live] == [face for face in chosen if not face.live]
    assert not any(live) or any(face.live for face in chosen)


def test_the_shed_share_is_told() -> None:
    scheduler = Scheduler(0.125)
    assert scheduler.skipped_share == 0
    scheduler.choose([Face(live=True), Face(live=False)])  # a file's faces are no part of it
    scheduler.skip(3)
    assert scheduler.skipped_share == 0.75
