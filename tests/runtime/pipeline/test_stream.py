"""How often faces are searched: seldom where they stay, at once where they are lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.pipeline.stream import DetectionScheduler

PICTURE = np.zeros((8, 8, 3), np.uint8)


class Walker(FaceDetector):
    """Finds one face that walks `speed` of its sizes from search to search, or none."""

    def __init__(self, speed: float | None) -> None:
        self._speed, self.searches, self.known = speed, 0, list[int]()

    def detect(self, image: NDArray[np.uint8], known: Sequence[Face] = ()) -> list[Face]:
        self.searches += 1
        self.known.append(len(known))
        if self._speed is None:
            return []
        x = 100 * self._speed * self.searches
        return [Face((x, 0, 100, 100), TEMPLATE + np.array([x, 0], np.float32), 0.9)]


def searches(scheduler: DetectionScheduler, seconds: float, wanted: bool, start: float = 0.0) -> list[float]:
    """Times of the searches in a video of 100 pictures a second."""
    found = []
    for index in range(round(100 * start), round(100 * (start + seconds))):
        if scheduler.should_detect(index, index / 100, wanted or index == 0):
            scheduler.detect(PICTURE)
            found.append(index / 100)
    return found


@pytest.mark.parametrize(("wanted", "moving", "calm"), [(True, 0.1, 0.2), (False, 0.2, 0.3)])
def test_faces_that_stay_are_searched_half_as_often(wanted: bool, moving: float, calm: float) -> None:
    for speed, pause in ((0.5, moving), (None, moving), (0.0, calm), (0.1, calm)):
        times = searches(DetectionScheduler(Walker(speed)), 3, wanted)
        assert np.diff(times[1:]) == pytest.approx(pause, abs=1e-6)


def test_where_known_faces_are_looked_for_all_others_are_every_two_fifths_of_a_second() -> None:
    walker = Walker(0.5)
    searches(DetectionScheduler(walker), 1.2, True)
    assert walker.known == [0, 1, 1, 1] * 3
    walker = Walker(0.5)
    searches(DetectionScheduler(walker, every=10), 1.2, True)
    assert walker.known == [0] * 12


def test_a_face_that_is_lost_and_another_scene_are_searched_sooner() -> None:
    scheduler = DetectionScheduler(Walker(0.0))
    *_, last = searches(scheduler, 1, True)
    scheduler.hurry()
    assert searches(scheduler, 1, True, last + 0.01)[0] == pytest.approx(last + 0.1)
    scheduler = DetectionScheduler(Walker(0.0))
    *_, last = searches(scheduler, 1, True)
    assert scheduler.should_detect(round(100 * last) + 1, last + 0.01, wanted=True, anew=True)


def test_frames_are_counted_where_that_is_asked_for() -> None:
    assert searches(DetectionScheduler(Walker(0.0), every=7), 0.3, False) == [0, 0.07, 0.14, 0.21, 0.28]
