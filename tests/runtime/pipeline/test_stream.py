"""One source: how often its faces are searched, which are read, and what is known of samples that were left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dfer.runtime.faces.alignment import TEMPLATE
from dfer.runtime.faces.detection import Box, Face, FaceDetector, GivenFace
from dfer.runtime.pipeline.feature_window import FeatureWindow
from dfer.runtime.pipeline.scheduler import Scheduler
from dfer.runtime.pipeline.smoothing import Smoother
from dfer.runtime.pipeline.stream import DetectionScheduler, Reading, StreamState
from dfer.runtime.sources import Frame
from dfer.runtime.timing import Stopwatch

PICTURE = np.zeros((100, 100, 3), np.uint8)


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


class Boxes:
    """The same faces in every frame, by number."""

    def __init__(self, *boxes: Box) -> None:
        self._faces: list[Face] = [
            GivenFace(box, TEMPLATE * np.float32(box[2] / 128) + np.float32(box[:2]), 1.0, number)
            for number, box in enumerate(boxes, 1)
        ]

    def should_detect(self, index: int, time: float, wanted: bool, anew: bool = False) -> bool:
        return True

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return self._faces

    def finish(self) -> None:
        pass


def camera(boxes: Boxes, scheduler: Scheduler, max_faces: int | None = None) -> StreamState:
    return StreamState(
        *("camera 0", True, 0.125),
        face_provider=boxes,
        crop_size=64,
        max_faces=max_faces,
        open_window=lambda: FeatureWindow(16, 2.0, 0.125),
        scheduler=scheduler,
        smoother=Smoother(("joy", "fear")),
        watch=Stopwatch(),
        warn=lambda _: None,
    )


def test_samples_of_a_live_face_that_were_left_out_are_known_when_it_is_read_again() -> None:
    scheduler, missed = Scheduler(0.125), []
    stream = camera(Boxes((20, 20, 60, 60)), scheduler)
    seen = [(0, 0, True), (1, 1, False), (2, 2, False), (3, 3, True), (4, 4, True)]
    dropped, silent = (8, 8, True), (9, 12, True)  # three frames between; none between, for none came
    for index, period, encoded in (*seen, dropped, silent):
        (request,) = stream.process(Frame(PICTURE, index, period / 8)).requests
        missed.append(request.missed)
        if encoded:
            stream.take(request)
    assert missed == [0, 0, 1, 2, 0, 3, 0]
    assert scheduler.skipped == 5


def test_the_largest_faces_are_read_and_of_their_boxes_what_lies_in_the_picture() -> None:
    stream = camera(Boxes((60, 60, 30, 30), (-10, -20, 60, 70), (70, 20, 50, 40)), Scheduler(0.125), max_faces=2)
    followed = stream.process(Frame(PICTURE, 0, 0.0))
    reading = Reading(np.array([0.75, 0.25], np.float32), True, 1.0)
    step = stream.read(followed, dict.fromkeys(followed.requests, reading))
    assert {row.track_id: row.box for row in step.predictions} == {2: (0, 0, 50, 50), 3: (70, 20, 30, 40)}
    assert [row.state for row in step.predictions] == ["warmup", "warmup"]
    assert [face.track_id for face in step.faces] == [1, 2, 3]
