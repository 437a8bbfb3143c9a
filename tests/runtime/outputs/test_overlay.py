"""The annotated picture: every face is marked, and nothing lies on a face that could lie beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.faces.tracking import Box
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.outputs.overlay import annotate
from dfer.runtime.outputs.palette import COLOURS, colour_of
from dfer.runtime.predictions import Prediction, Step, VisibleFace
from dfer.runtime.sources import Frame

SURE = np.array([0.94, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01], np.float32)


def step(image: np.ndarray, boxes: list[Box], classes: tuple[str, ...] = EXPRESSIONS, read: bool = True) -> Step:
    shares = SURE[: len(classes)] / SURE[: len(classes)].sum()
    faces = [
        VisibleFace(i + 1, box, Prediction("a", 0, 0, i + 1, box, shares, classes, "ready") if read else None)
        for i, box in enumerate(boxes)
    ]
    return Step("a", Frame(image, 0, 0.0), (), tuple(faces))


def changed(image: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Where the picture was drawn into, [H,W]."""
    drawn = annotate(step(image, boxes))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    return np.asarray((drawn != image).any(axis=2))


def inner(area: np.ndarray, box: Box) -> np.ndarray:
    """The middle of a box, where eyes, nose and mouth are."""
    x, y, w, h = box
    return area[round(y + 0.15 * h) : round(y + 0.8 * h), round(x + 0.15 * w) : round(x + 0.85 * w)]


@pytest.mark.parametrize("size", [(240, 320), (360, 640), (720, 1280), (2160, 3840), (1920, 1080)])
def test_a_face_alone_gets_tag_and_bars_beside_it(size: tuple[int, int]) -> None:
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    side = min(size) / 3
    box = (width / 2 - side / 2, height / 2 - side / 2, side, side)
    area = changed(image, [box])
    assert not inner(area, box).any()
    yellow = np.abs(annotate(step(image, [box])).astype(int) - COLOURS["happiness"]).sum(axis=2) < 70
    assert yellow.mean() > 0.003  # the bar of the certain class, the frame, the tag


@pytest.mark.parametrize(("size", "gap"), [((240, 320), 1.15), ((720, 1280), 1.1), ((2160, 3840), 1.1)])
def test_faces_that_stand_close_stay_visible(size: tuple[int, int], gap: float) -> None:
    height, width = size
    side = width / 7
    boxes = [(side * (0.6 + gap * i), height * (0.3 + 0.1 * (i % 2)), side, 1.2 * side) for i in range(5)]
    area = changed(np.full((height, width, 3), 90, np.uint8), boxes)
    for box in boxes:
        assert not inner(area, box).any()


def test_real_faces_stay_visible(shared_data: Path) -> None:
    image = np.ascontiguousarray(cv2.imread(str(shared_data / "videos" / "multi_face.jpg"))[..., ::-1])
    boxes = [face.box for face in FaceDetector().detect(image)]
    assert len(boxes) == 5
    area = changed(image, boxes)
    for box in boxes:
        assert inner(area, box).mean() < 0.05


def test_a_face_that_fills_the_picture_still_has_its_label() -> None:
    image = np.full((360, 640, 3), 90, np.uint8)
    area = changed(image, [(-10.0, -10.0, 660.0, 380.0)])
    assert max(area[:25, :200].mean(), area[-25:, :200].mean()) > 0.3


def test_names_are_drawn_in_the_letters_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    put_text = cv2.putText

    def put(image: np.ndarray, text: str, *how: Any) -> Any:
        drawn.append(text)
        return put_text(image, text, *how)

    monkeypatch.setattr(cv2, "putText", put)
    annotate(
        step(np.full((720, 1280, 3), 90, np.uint8), [(500.0, 200.0, 200.0, 240.0)], ("Größe", "très gêné", "高兴"))
    )
    assert drawn == ["1  Grosse 98%", "Grosse", "tres gene", "??"]


def test_of_more_classes_than_fit_the_most_probable_have_bars() -> None:
    classes, box = tuple(f"class {index}" for index in range(40)), (500.0, 200.0, 200.0, 240.0)
    shares = np.array([0.1 / 39] * 39 + [0.9], np.float32)
    prediction = Prediction("a", 0, 0, 1, box, shares, classes, "ready")
    drawn = annotate(
        Step("a", Frame(np.full((720, 1280, 3), 90, np.uint8), 0, 0.0), (), (VisibleFace(1, box, prediction),))
    )
    beside = drawn[:, :490]  # the panel is there, left of box and tag
    bar = (beside == colour_of(classes[-1], classes)).all(axis=2)
    assert 60 < bar.any(axis=0).sum() < 100  # its length is that of 0.9
    assert len({colour_of(name, classes) for name in classes}) == 40


def test_a_free_corner_says_how_much_video_a_label_is_about() -> None:
    image = np.full((720, 1280, 3), 90, np.uint8)
    middle, left, whole = (540.0, 260.0, 200.0, 240.0), (0.0, 480.0, 200.0, 240.0), (0.0, 0.0, 1280.0, 720.0)
    corners = {"left": np.s_[690:, :130], "right": np.s_[690:, -130:]}
    for boxes, expected in (([middle], ["left"]), ([middle, left], ["right"]), ([whole], [])):
        drawn, without = annotate(step(image, boxes), 1.35), annotate(step(image, boxes))
        assert [name for name, part in corners.items() if (drawn[part] != without[part]).any()] == expected
    unread = step(image, [middle], read=False)
    np.testing.assert_array_equal(annotate(unread, 1.35), annotate(unread))  # nothing is labelled


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.lists(st.tuples(*[st.floats(-300, 500)] * 2, *[st.floats(0, 600)] * 2), max_size=6),
    st.sampled_from([EXPRESSIONS, ("one",), ("很高兴", "a name that is much too long for any panel")]),
    st.booleans(),
)
def test_boxes_anywhere_and_pictures_of_any_size_are_drawn(
    size: tuple[int, int], boxes: list[Box], classes: tuple[str, ...], read: bool
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert annotate(step(image, boxes, classes, read), 1.35).shape == image.shape
    assert not image.any()  # the frame itself stays
