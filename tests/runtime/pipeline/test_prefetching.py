"""What comes next is made meanwhile: at once, or just in time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from dfer.runtime import DferError
from dfer.runtime.pipeline.gathering import Gathered
from dfer.runtime.pipeline.prefetching import Pace, prefetch
from dfer.runtime.sources import SourceReaders
from helpers import ctrl_c_as_on_windows


def test_what_comes_next_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2
        raise DferError("no third")

    with SourceReaders([]) as readers:
        coming = prefetch(items(), readers)
        assert next(coming) == 1
        assert made.wait(60)  # nobody asked for the second yet
        assert next(coming) == 2
        with pytest.raises(DferError, match="no third"):
            next(coming)


def test_the_next_rests_until_it_is_due_or_wanted() -> None:
    made, last = list[float](), threading.Event()

    def items() -> Iterator[float]:
        for seconds in (60.0, 0.2, 0.0):
            made.append(time.monotonic())
            if len(made) == 3:
                last.set()
            yield seconds

    with SourceReaders([]) as readers:
        coming = prefetch(items(), readers, rest=float)
        assert next(coming) == 60
        time.sleep(0.5)
        assert len(made) == 1  # not due
        begun = time.monotonic()
        assert next(coming) == 0.2  # wanted
        assert last.wait(30) and made[2] - begun >= 0.2  # due, before anybody asks
        assert next(coming) == 0 and list(coming) == []
        assert time.monotonic() - begun < 50


def test_live_frames_are_followed_just_in_time() -> None:
    with_faces = Gathered([], [object()], spent=0.01)  # type: ignore[list-item]
    without = Gathered([], [], spent=0.01)
    pace, hasty = Pace(fresh=True), Pace(fresh=False)
    for _ in range(20):
        for one in (pace, hasty):
            one.learn(with_faces, 0.1)
            one.learn(without, 0.05)  # somebody draws them
    assert pace.rest(with_faces) == pytest.approx(0.1 - 1.5 * 0.01, abs=1e-4)
    assert pace.rest(without) == pytest.approx(0.05 - 1.5 * 0.01, abs=1e-4)
    assert hasty.rest(with_faces) <= 0
    searched = Gathered([], [object()], spent=0.03)  # type: ignore[list-item]
    pace.learn(searched, 0.1)
    for _ in range(3):
        pace.learn(with_faces, 0.1)
    assert pace.rest(with_faces) < 0.1 - 0.03, "the next search would come late"
    steady = pace.rest(with_faces)
    pace.learn(with_faces, 0.2)  # one that took twice as long counts half
    assert pace.rest(with_faces) == pytest.approx(steady + 0.05, abs=0.01)


def test_nothing_is_made_any_more_when_no_more_are_taken() -> None:
    def takers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "taker of frames"]

    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    with SourceReaders([]) as readers:
        coming = prefetch(items(), readers)
        assert next(coming) == 1 and made.wait(60) and takers()
        time.sleep(0.3)  # it waits until the second is taken
        coming.close()  # type: ignore[attr-defined]
        for thread in takers():
            thread.join(10)
            assert not thread.is_alive()


def test_an_item_is_prepared_until_it_is_taken() -> None:
    steps, first, last = [], threading.Event(), threading.Event()

    def prepare(item: int) -> Iterator[None]:
        steps.append(item)
        assert first.wait(60)
        yield
        steps.append(item)
        last.set()
        raise DferError("cannot be prepared")

    with SourceReaders([]) as readers:
        coming = prefetch(iter([1, 2]), readers, prepare)
        assert next(coming) == 1  # while it is prepared
        first.set()
        assert last.wait(60)  # the second is, all of it, for nobody takes it
        assert steps == [1, 2, 2]
        assert next(coming) == 2
        with pytest.raises(DferError, match="cannot be prepared"):
            next(coming)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_the_waiting_for_what_comes_next() -> None:
    def items() -> Iterator[int]:
        threading.Event().wait(5)
        yield 1

    with SourceReaders([]) as readers, ctrl_c_as_on_windows():
        next(prefetch(items(), readers))
