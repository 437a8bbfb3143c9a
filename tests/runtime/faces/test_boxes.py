"""A user's own boxes: read from files like those dfer-run writes, followed to the letter, refused with the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dfer.runtime import DferError
from dfer.runtime.faces.alignment import align
from dfer.runtime.faces.boxes import read_boxes
from dfer.runtime.faces.detection import FaceDetector, GivenFace
from dfer.runtime.faces.tracking import Tracker
from dfer.runtime.outputs.tables import CsvSink
from dfer.runtime.predictions import Prediction
from helpers import step_of


def write(folder: Path, text: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_landmarks_are_found_inside_the_users_box(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    (face,) = FaceDetector().detect(face_frames[0])
    x, y, w, h = face.box
    for box in ((x, y, w, h), (x - 0.1 * w, y + 0.1 * h, 1.1 * w, w)):  # a detector's, and a square one
        path = write(tmp_path, "frame,x,y,w,h\n0," + ",".join(map(str, box)))
        (boxes,) = read_boxes(path, ["clip.mp4"])
        assert boxes.should_detect(0, 0.0)
        (found,) = boxes.detect(face_frames[0])
        assert found.box == pytest.approx(box)
        assert isinstance(found, GivenFace) and (found.id, found.score) == (None, 1)
        assert np.linalg.norm(found.landmarks - face.landmarks, axis=1).mean() < 0.06 * face.size


def test_a_large_face_is_found_and_one_at_the_edge_too(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    large = np.repeat(np.repeat(face_frames[0], 4, 0), 4, 1)
    (face,) = FaceDetector().detect(large)
    cut = np.ascontiguousarray(large[:, int(face.box[0] + 0.1 * face.box[2]) :])
    for image, x in ((large, face.box[0]), (cut, -0.1 * face.box[2])):
        box = (x, *face.box[1:])
        (boxes,) = read_boxes(write(tmp_path, "frame,x,y,w,h\n0," + ",".join(map(str, box))), ["clip.mp4"])
        boxes.should_detect(0, 0.0)
        (found,) = boxes.detect(image)
        expected = face.landmarks - (face.box[0] - x, 0)
        assert np.linalg.norm(found.landmarks - expected, axis=1).mean() < 0.08 * face.size


def test_where_no_face_is_found_an_average_one_fills_the_box(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    (face,) = FaceDetector().detect(face_frames[0])
    (boxes,) = read_boxes(write(tmp_path, "frame,x,y,w,h\n0," + ",".join(map(str, face.box))), ["clip.mp4"])
    boxes.should_detect(0, 0.0)
    (found,) = boxes.detect(np.full_like(face_frames[0], 128))
    assert np.linalg.norm(found.landmarks - face.landmarks, axis=1).mean() < 0.12 * face.size
    assert found.frontal


def test_what_dfer_run_wrote_is_read_with_its_tracks(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    classes = ("happiness", "sadness")
    sink = CsvSink(tmp_path / "out.csv", classes)
    probabilities = np.array([0.9, 0.1], np.float32)
    for frame in (0, 3, 6):
        for track in (4, 2):
            box = (10.0 * track, 20.0, 50.0, 60.0)
            sink.write(step_of(Prediction("clip.mp4", frame, frame / 24, track, box, probabilities, classes, "ready")))
    sink.close()
    (boxes,) = read_boxes(tmp_path / "out.csv", ["/elsewhere/clip.mp4"])
    tracker, seen = Tracker(), []
    for index in range(8):
        if boxes.should_detect(index, index / 24):
            image = face_frames[index]
            tracks = tracker.update(boxes.detect(image), index / 24, image)
            seen.append((index, [track.id for track in tracks], [track.face.box[0] for track in tracks]))
    assert seen == [(index, [4, 2], [40.0, 20.0]) for index in (0, 3, 6)]
    boxes.finish()


def test_boxes_are_read_as_spreadsheets_save_them(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("time_s; x; y; w; h\r\n0.1; 1; 2; 30; 40\r\n", encoding="utf-16")
    (boxes,) = read_boxes(path, ["clip.mp4"])
    assert [index for index in range(12) if boxes.should_detect(index, index / 24)] == [3]


def test_times_go_to_the_first_frame_at_or_after_them(tmp_path: Path) -> None:
    path = write(tmp_path, "time_s,x,y,w,h\n0.0417,1,1,9,9\n0.05,2,2,9,9\n0.3,3,3,9,9\n")
    (boxes,) = read_boxes(path, ["clip.mp4"])
    assert [index for index in range(12) if boxes.should_detect(index, index / 24)] == [1, 2, 8]


def test_of_two_moments_between_frames_the_later_counts(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    (boxes,) = read_boxes(write(tmp_path, "time_s,x,y,w,h\n0.01,1,1,9,9\n0.03,2,2,9,9\n"), ["clip.mp4"])
    assert [boxes.should_detect(index, time) for index, time in enumerate((0.0, 0.04))] == [False, True]
    assert [face.box[0] for face in boxes.detect(face_frames[0])] == [2]


def test_tracks_at_different_moments_share_a_frame(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    rows = "time_s,track,x,y,w,h\n0.01,1,1,1,9,9\n0.02,2,2,2,9,9\n0.03,1,3,3,9,9\n"
    (boxes,) = read_boxes(write(tmp_path, rows), ["clip.mp4"])
    assert boxes.should_detect(1, 0.04)
    assert {face.id: face.box[0] for face in boxes.detect(face_frames[0]) if isinstance(face, GivenFace)} == {
        1: 3,
        2: 2,
    }


def test_a_face_without_a_box_for_two_seconds_is_gone(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    (boxes,) = read_boxes(write(tmp_path, "frame,x,y,w,h\n3,100,80,90,100\n90,100,80,90,100\n"), ["clip.mp4"])
    found = {index: len(boxes.detect(face_frames[0])) for index in range(150) if boxes.should_detect(index, index / 24)}
    assert found == {3: 1, 52: 0, 90: 1, 139: 0}


def test_sources_get_their_own_rows(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    path = write(tmp_path, "source,frame,x,y,w,h\na.mp4,0,1,1,9,9\nb.mp4,1,2,2,9,9\nother.mp4,0,3,3,9,9\n")
    first, second = read_boxes(path, ["films/a.mp4", "b.mp4"])
    assert (first.should_detect(0, 0), first.should_detect(1, 0.1)) == (True, False)
    assert (second.should_detect(0, 0), second.should_detect(1, 0.1)) == (False, True)
    assert [face.box[0] for face in second.detect(face_frames[0])] == [2]
    with pytest.raises(DferError, match=r"no row is for c\.mp4"):
        read_boxes(path, ["a.mp4", "c.mp4"])
    with pytest.raises(DferError, match="no column source"):
        read_boxes(write(tmp_path, "frame,x,y,w,h\n0,1,1,9,9\n"), ["a.mp4", "b.mp4"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the first line must name the columns x,y,w,h"),
        ("frame,x,y,w\n0,1,1,9\n", "must name the columns x,y,w,h"),
        ("x,y,w,h\n1,1,9,9\n", "must name a column frame or time_s"),
        ("frame,x,y,w,h\n", "holds no boxes"),
        ("frame,x,y,w,h\n0,1,1,9,9\n1,1,one,9,9\n", "line 3: y is 'one'"),
        ("frame,x,y,w,h\n0,1,1,,9\n", "line 2: w is ''"),
        ("frame,x,y,w,h\n0,1,1\n", "line 2: does not have the 5 columns of the first line"),
        ("frame,x,y,w,h\n0,1,nan,9,9\n", "line 2: y is 'nan'"),
        ("frame,x,y,w,h\n0,1,1,0,9\n", "line 2: a box of 0×9 pixels"),
        ("frame,x,y,w,h\n0,1,1,1e-308,9\n", "line 2: a box of 1e-308×9 pixels"),
        ("frame,x,y,w,h\n0,1,1,1e308,1e308\n", r"line 2: the box is at 1, 1, 1e\+308×1e\+308"),
        ("frame,x,y,w,h\n0,-1e308,1,9,9\n", "that is no picture's"),
        ("frame,x,y,w,h\n0," + "1" * 5000 + ",1,9,9\n", "line 2: x is '1111"),
        ("frame,x,y,w,h\n1e308,1,1,9,9\n", "frame is 1e.308; it counts from 0, to 1e.09 at most"),
        ("frame,x,y,w,h,track\n0,1,1,9,9," + "1" * 5000 + "\n", "line 2: track is '1111"),
        ("frame,x,y,w,h\n0," + "1" * 200_000 + ",1,9,9\n", "line 2: field larger than field limit"),
        ("frame,x,y,w,h\n0,1,1,9" + ",9" * 100_000 + "\n", "line 2: does not have the 5 columns"),
        ("frame,x,y,w,h\n0.5,1,1,9,9\n", "line 2: frame is 0.5"),
        ("time_s,x,y,w,h\n-1,1,1,9,9\n", "line 2: time_s is -1"),
        ("frame,x,y,w,h,track\n0,1,1,9,9,bob\n", "line 2: track is 'bob'"),
        ("frame,x,y,w,h,track\n0,1,1,9,9,1\n1,1,1,9,9,\n", "line 3: no track"),
        ("frame,x,y,w,h,track\n0,1,1,9,9,1\n0,5,1,9,9,1\n", "line 3: a track is twice"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_says_where(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DferError, match=told) as raised:
        read_boxes(write(tmp_path, text), ["clip.mp4"])
    assert "\n" not in str(raised.value) and "boxes.csv" in str(raised.value) and len(str(raised.value)) < 400


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="No such file"):
        read_boxes(tmp_path / "none.csv", ["clip.mp4"])
    (tmp_path / "video.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DferError, match="not a text file in UTF-8"):
        read_boxes(tmp_path / "video.csv", ["clip.mp4"])


def test_boxes_that_meet_no_frame_or_no_pixel_are_an_error(tmp_path: Path) -> None:
    (boxes,) = read_boxes(write(tmp_path, "frame,x,y,w,h\n500,1,1,9,9\n510,1,1,9,9\n"), ["clip.mp4"])
    assert not any(boxes.should_detect(index, index / 24) for index in range(100))
    with pytest.raises(DferError, match="frames 500 to 510"):
        boxes.finish()
    (boxes,) = read_boxes(write(tmp_path, "frame,x,y,w,h\n0,900,1,9,9\n"), ["clip.mp4"])
    assert boxes.should_detect(0, 0.0)
    with pytest.raises(DferError, match="line 2: the box lies outside the picture, which is 320×240"):
        boxes.detect(np.zeros((240, 320, 3), np.uint8))


@given(st.text("0123456789.,-\n\"exyw hframet'\x00é", max_size=80))
def test_whatever_the_file_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), "frame,x,y,w,h,track\n" + rows)
    try:
        (boxes,) = read_boxes(path, ["clip.mp4"])
    except DferError as error:
        assert "\n" not in str(error)
    else:
        boxes.should_detect(0, 0.0)


numbers = st.floats(-1e6, 1e6) | st.sampled_from([0, 1, -1e6, 1e6, 1e-6])


@given(st.tuples(numbers, numbers, st.floats(1, 1e6), st.floats(1, 1e6)))
@example((-1e6 + 1, -1e6 + 1, 1e6, 1e6))
@example((0, 0, 1e6, 1))
@example((319.5, 239.5, 1, 1e6))
def test_any_box_that_is_read_gives_a_crop_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, box: tuple[float, float, float, float]
) -> None:
    image = np.full((240, 320, 3), 128, np.uint8)
    path = write(tmp_path_factory.getbasetemp(), "frame,x,y,w,h\n0," + ",".join(map(repr, box)))
    (boxes,) = read_boxes(path, ["clip.mp4"])
    boxes.should_detect(0, 0.0)
    try:
        (face,) = boxes.detect(image)
    except DferError as error:
        assert "lies outside" in str(error)
    else:
        assert align(image, face.landmarks, 112).shape == (112, 112, 3)
