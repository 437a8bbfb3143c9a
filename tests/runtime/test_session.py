"""Frames of one's own: the same rows as from a file, from any thread, and clear words for wrong input."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dfer.runtime import DferError, Prediction, Recognizer, to_dataframe
from dfer.runtime.pipeline.gathering import choose_faces
from dfer.runtime.sources import Frame, open_source
from dfer.runtime.timing import Stopwatch
from helpers import assert_same_rows


@pytest.fixture(scope="module")
def recognizer() -> Iterator[Recognizer]:
    """The demo model, smoothing, so that equal rows mean that smoothing is part of them."""
    with Recognizer(provider="cpu", precision="fp32", smooth=0.4) as opened:
        yield opened


@pytest.fixture(scope="module")
def frames(face_video: Path) -> list[Frame]:
    with open_source(face_video) as source:
        return list(source)


@pytest.fixture(scope="module")
def streamed(recognizer: Recognizer, face_video: Path) -> list[Prediction]:
    return list(recognizer.stream(face_video))


def pushed(recognizer: Recognizer, frames: list[Frame], name: str) -> list[Prediction]:
    session = recognizer.session(name)
    return [row for frame in frames for row in session.push(frame.image, frame.time)]


def test_pushed_frames_give_the_rows_of_the_file(
    recognizer: Recognizer, frames: list[Frame], streamed: list[Prediction], face_video: Path
) -> None:
    assert_same_rows(pushed(recognizer, frames, str(face_video)), streamed)
    assert len(streamed) == 24


def test_times_may_begin_anywhere(recognizer: Recognizer, frames: list[Frame], streamed: list[Prediction]) -> None:
    for start in (-1.5, 1e6):
        session = recognizer.session()
        rows = [row for frame in frames for row in session.push(frame.image, start + frame.time)]
        assert [(row.frame, row.label, row.state) for row in rows] == [
            (row.frame, row.label, row.state) for row in streamed
        ]


def test_sessions_of_one_recogniser_run_in_several_threads(
    recognizer: Recognizer, frames: list[Frame], streamed: list[Prediction], face_video: Path
) -> None:
    with ThreadPoolExecutor(3) as pool:
        results = pool.map(lambda _: pushed(recognizer, frames, str(face_video)), range(3))
        for rows in results:
            assert_same_rows(rows, streamed)


def test_of_several_sources_those_that_failed_are_raised_when_the_others_have_ended(
    recognizer: Recognizer, streamed: list[Prediction], face_video: Path, tmp_path: Path
) -> None:
    empty, damaged = tmp_path / "empty.mp4", tmp_path / "damaged.mp4"
    empty.touch()
    damaged.write_bytes(b"no video")
    stream = recognizer.stream(empty, face_video, damaged)
    assert_same_rows([next(stream) for _ in streamed], streamed)
    with pytest.raises(DferError, match=r"^2 of 3 sources failed: .*empty\.mp4: .*; .*damaged\.mp4: "):
        next(stream)


def test_a_step_of_a_session_has_the_faces_between_samples(recognizer: Recognizer, frames: list[Frame]) -> None:
    session = recognizer.session()
    steps = [session.step(frame.image, frame.time) for frame in frames[:8]]
    assert [len(step.predictions) for step in steps] == [1, 0, 0, 1, 0, 0, 1, 0]
    assert all(len(step.faces) == 1 and step.faces[0].prediction is not None for step in steps)


def test_pictures_that_come_too_seldom_to_be_read_together_are_told_of_once(frames: list[Frame]) -> None:
    told: list[str] = []
    with Recognizer(provider="cpu", warn=told.append) as recognizer:
        session = recognizer.session("dark room", live=True)
        rows = [session.push(frames[0].image, index / 3)[0] for index in range(30)]
        assert {row.state for row in rows} == {"warmup"}
        (line,) = told
        assert line.startswith("dark room: has about 3 pictures per second") and "--fps 3" in line
    with Recognizer(provider="cpu", fps=3, warn=told.append) as recognizer:
        session = recognizer.session("dark room", live=True)
        assert [session.push(frames[0].image, index / 3)[0].state for index in range(9)][-1] == "ready"
    assert len(told) == 1


def test_a_stream_that_was_silent_does_not_make_the_machine_too_slow(frames: list[Frame]) -> None:
    with Recognizer(provider="cpu") as recognizer:
        scheduler, faces = recognizer.scheduler, recognizer._detection("s")
        live = recognizer._open_stream("s", True, None, faces, scheduler, Stopwatch())
        for index, time in ((0, 0.0), (3, 0.125), (5, 3600.0)):  # of the first back one was replaced by a newer
            choose_faces([live.process(Frame(frames[0].image, index, time, 0.0, 0.0))], scheduler)
        assert (scheduler.encoded, scheduler.skipped) == (3, 1)
        choose_faces([live.process(Frame(frames[0].image, 29, 3601.0, 0.0, 0.0))], scheduler)
        assert scheduler.skipped == 1 + 7  # there were 24 frames in that second


def test_a_source_of_less_than_a_picture_per_second_is_smoothed_too(frames: list[Frame]) -> None:
    courses = []
    for smooth in (0, 8):
        with Recognizer(provider="cpu", window=10, smooth=smooth) as recognizer:
            session = recognizer.session(rate=0.8)
            rows = [session.push(frames[index * 12].image, index / 0.8)[0] for index in range(6)]
            courses.append(np.array([row.probabilities for row in rows]))
    assert np.abs(np.diff(courses[1], axis=0)).sum() < 0.7 * np.abs(np.diff(courses[0], axis=0)).sum()


def test_a_single_picture_and_a_clip_give_a_prediction_per_face(recognizer: Recognizer, frames: list[Frame]) -> None:
    pair = np.hstack([frames[40].image, frames[40].image[:, ::-1]])
    faces = recognizer.predict(pair)
    assert len(faces) == 2
    assert {face.state for face in faces} == {"ready"}
    (last,) = recognizer.predict([frame.image for frame in frames], rate=24)
    assert (last.state, last.frame) == ("ready", 69)
    assert recognizer.predict(np.zeros((80, 80, 3), np.uint8)) == []


def test_of_a_clip_only_faces_that_are_there_at_its_end_are_given(recognizer: Recognizer, frames: list[Frame]) -> None:
    images, black = [frame.image for frame in frames[:24]], np.zeros_like(frames[0].image)
    (last,) = recognizer.predict([*images, *[black] * 12], rate=24)
    assert last.frame == 21
    assert recognizer.predict([*images, *[black] * 24], rate=24) == []


def test_crops_of_ones_own_give_what_the_pipeline_gives(recognizer: Recognizer, frames: list[Frame]) -> None:
    from dfer.runtime.faces.alignment import align
    from dfer.runtime.faces.detection import FaceDetector

    faces = [FaceDetector().detect(frame.image)[0] for frame in frames[:2]]
    size = recognizer.bundle.manifest.preprocessing.size
    crops = [align(frame.image, face.landmarks, size) for frame, face in zip(frames, faces, strict=False)]
    first, second = recognizer.predict_crops(crops, [0.0, 0.125])
    expected = recognizer.classify(np.repeat(recognizer.encode(crops[0][None])[:, None], 16, axis=1))[0]
    np.testing.assert_allclose(first.probabilities, expected, atol=1e-5)
    assert (first.time, second.time, second.state) == (0.0, 0.125, "warmup")
    x, y, w, h = (round(value) for value in faces[0].box)
    (boxed,) = recognizer.predict_crops([frames[0].image[y : y + h, x : x + w]], aligned=False)
    assert np.abs(boxed.probabilities - first.probabilities).max() < 0.2
    assert boxed.label == first.label


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \[0, 8, 3\]"),
        ("picture.jpg", "it is str"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_order_of_its_channels(
    recognizer: Recognizer, image: object, words: str
) -> None:
    for call in (recognizer.session().push, lambda image, _: recognizer.predict([image])):
        with pytest.raises(DferError, match=words) as error:
            call(image, 0.0)  # type: ignore[arg-type]
        assert "red, green, blue" in str(error.value)


def test_a_picture_that_could_not_be_read_is_told_so(recognizer: Recognizer) -> None:
    nothing: Any = cv2.imread("nowhere.png")
    for call in (recognizer.predict, lambda image: recognizer.session().push(image, 0.0)):
        with pytest.raises(DferError, match=r"^image: is None, which cv2\.imread gives") as error:
            call(nothing)
        assert "\n" not in str(error.value)


def test_times_must_rise(recognizer: Recognizer, frames: list[Frame]) -> None:
    session = recognizer.session()
    session.push(frames[0].image, 1.0)
    for seconds in (1.0, 0.5, float("nan")):
        with pytest.raises(DferError, match=r"seconds: .* does not come after"):
            session.push(frames[0].image, seconds)
    session.push(frames[0].image, 1.125)
    with pytest.raises(DferError, match="times: must be 2 rising"):
        recognizer.predict_crops([frames[0].image] * 2, [1.0, 1.0])


def test_predictions_compare_and_pickle_and_a_recogniser_says_why_it_does_not(
    recognizer: Recognizer, streamed: list[Prediction]
) -> None:
    copies = pickle.loads(pickle.dumps(streamed))
    assert copies == streamed
    assert len({*copies, *streamed}) == len(streamed)
    assert streamed[0] != streamed[1]
    with pytest.raises(TypeError, match="loaded engines"):
        pickle.dumps(recognizer)


def test_steps_of_a_film_pickle_and_copy_with_their_picture(recognizer: Recognizer, face_video: Path) -> None:
    with open_source(face_video) as source:
        steps = [step for step, _ in zip(recognizer.steps(source), range(3), strict=False)]
    for step in steps[1:]:  # between samples: nobody has asked for their pictures
        for same in (pickle.loads(pickle.dumps(step)), deepcopy(step)):
            assert (same.frame.index, same.frame.time, same.faces) == (step.frame.index, step.frame.time, step.faces)
            np.testing.assert_array_equal(same.frame.image, step.frame.image)


def test_predictions_become_a_dataframe(recognizer: Recognizer, streamed: list[Prediction]) -> None:
    frame = to_dataframe(streamed)
    assert list(frame.columns[:5]) == ["source", "frame", "time_s", "track", "x"]
    assert frame[list(recognizer.classes)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert frame["label"].tolist() == [row.label for row in streamed]
    assert to_dataframe([]).empty
