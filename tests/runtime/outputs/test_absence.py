"""Why no face was read: what is told first is what happened."""

from __future__ import annotations

import numpy as np
import pytest

from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.outputs.absence import Absence
from dfer.runtime.predictions import Step, VisibleFace
from dfer.runtime.sources import Frame

BLACK, GREY = np.zeros((120, 160, 3), np.uint8), np.full((120, 160, 3), 128, np.uint8)


def reason(images: list[np.ndarray], min_face: int = 40, faces: tuple[VisibleFace, ...] = ()) -> str:
    """faces: those in view in the first of the images."""
    absence = Absence(min_face)
    for index, image in enumerate(images):
        absence.write(Step("a.mp4", Frame(image, index, index / 24), (), () if index else faces))
    return absence.reason


def test_a_video_that_begins_black_is_not_called_black() -> None:
    told = reason([BLACK, BLACK, GREY, GREY])
    assert told.startswith("no face was found in 4 pictures, not even one smaller than --min-face 40;")
    assert "the pictures are black" in reason([BLACK, BLACK])


def test_a_face_that_was_once_in_view_was_not_seen_from_the_front() -> None:
    assert "none was seen from the front" in reason([GREY, GREY], faces=(VisibleFace(1, (9, 9, 60, 60), None),))


def test_of_faces_that_are_too_small_the_side_of_the_largest_is_told(face_frames: list[np.ndarray]) -> None:
    width, height = FaceDetector().detect(face_frames[0])[0].box[2:]
    told = reason([face_frames[0], np.full_like(face_frames[0], 128)], min_face=200)
    assert "smaller than --min-face 200; the largest of 2 pictures" in told
    assert float(told.split()[-2]) == pytest.approx(min(width, height), abs=3)


def test_where_smaller_faces_are_not_looked_for_nothing_is_said_of_them(face_frames: list[np.ndarray]) -> None:
    told = reason([face_frames[0]], min_face=12)
    assert told == "no face was found in 1 pictures; if they lie on their side: --rotate auto"
