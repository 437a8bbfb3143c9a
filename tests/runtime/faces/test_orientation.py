"""Faces that are not upright: told, and turned when asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime import Recognizer, RunOptions, run
from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.faces.orientation import AutoTurn, OrientationVote, turn
from dfer.runtime.sources import Frame, open_source
from helpers import rows_of, write_video


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_vote_finds_how_faces_must_be_turned(degrees: int, face_frames: list[np.ndarray]) -> None:
    vote, detector = OrientationVote(), FaceDetector(min_score=0.4)
    for frame in face_frames[::2]:
        turned = turn(frame, degrees)
        vote.add(turned, detector.detect(turned))
        if frame is face_frames[0]:
            assert vote.decided is (degrees == 0)  # for who is upright nobody else need be asked
    assert vote.decided
    assert (vote.degrees + degrees) % 360 == 0


def test_the_largest_face_in_a_picture_votes_unless_it_is_out_of_it(face_frames: list[np.ndarray]) -> None:
    large = face_frames[0]
    both = np.hstack([large, np.zeros_like(large)])
    both[:120, 320:480] = turn(large, 180)[::2, ::2]
    faces = FaceDetector().detect(large)
    x, y, width, height = faces[0].box
    small = replace(faces[0], box=(480 - (x + width) / 2, 120 - (y + height) / 2, width / 2, height / 2))
    for order in ([faces[0], small], [small, faces[0]]):
        vote = OrientationVote()
        vote.add(both, order)
        assert vote.decided and vote.degrees == 0
    vote = OrientationVote()
    vote.add(large, [replace(faces[0], box=(5000.0, 80.0, 90.0, 100.0))])
    assert not vote.decided and vote.degrees == 0


def test_where_no_face_is_found_turned_ones_are_looked_for_now_and_then_and_not_for_ever(
    face_frames: list[np.ndarray],
) -> None:
    nothing, upside = np.zeros((64, 64, 3), np.uint8), turn(face_frames[0], 180)
    for empty, degrees in ((1, 0), (6, 180), (240, 0)):
        vote = OrientationVote()
        for _ in range(empty):
            vote.add(nothing, [])
        vote.add(upside, [])
        assert vote.degrees == degrees


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_the_first_clear_face_asks(degrees: int, face_frames: list[np.ndarray]) -> None:
    told: list[int] = []
    automatic = AutoTurn(lambda degrees, _: told.append(degrees))
    empty = np.zeros_like(turn(face_frames[0], degrees))
    assert automatic(Frame(empty, 0, 0.0)).shape == empty.shape  # nothing to go by yet
    turned = turn(face_frames[0], degrees)
    for index in range(1, 6):  # one of six pictures is looked at
        np.testing.assert_array_equal(automatic(Frame(turned, index, float(index))), turned)
    upright = automatic(Frame(turned, 6, 6.0))
    np.testing.assert_array_equal(upright, face_frames[0])
    assert told == ([(360 - degrees) % 360] if degrees else [])


def test_a_turned_video_is_warned_of_and_read_right_when_turned(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "upside.mp4", [frame[::-1, ::-1] for frame in face_frames], 24)
    warnings: list[str] = []
    run(RunOptions([video]), warn=warnings.append)
    assert [line for line in warnings if "--rotate 180" in line]
    upright = write_video(tmp_path / "upright.mp4", face_frames, 24)
    with Recognizer() as recognizer:
        expected = [row.label for row in recognizer.stream(upright)]
    for rotate in (180, "auto"):
        warnings.clear()
        run(RunOptions([video], csv=tmp_path / "o.csv", rotate=rotate), warn=warnings.append)  # type: ignore[arg-type]
        labels = [line.split(",")[8] for line in (tmp_path / "o.csv").read_text().splitlines()[1:]]
        agree = [one == other for one, other in zip(labels, expected, strict=True)]
        assert np.mean(agree) > 0.9
        assert not [line for line in warnings if "--rotate" in line]


@pytest.mark.parametrize(
    ("filmed", "given", "advice"), [(180, 90, "(--rotate 180)"), (0, 180, "leave out the rotation")]
)
def test_where_the_given_rotation_is_wrong_the_right_one_is_told(
    filmed: int, given: int, advice: str, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "film.mp4", [turn(frame, filmed) for frame in face_frames] * 3, 24)
    warnings: list[str] = []
    run(RunOptions([video], rotate=given), warn=warnings.append)
    (line,) = [line for line in warnings if "faces are turned" in line]
    assert advice in line


def test_every_photograph_is_turned_as_its_own_face_asks(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    album, upright, warnings = tmp_path / "album", tmp_path / "upright", list[str]()
    for folder in (album, upright):
        folder.mkdir()
    for name, degrees in (("anna", 0), ("bert", 90), ("carl", 180), ("dora", 0)):
        cv2.imwrite(str(upright / f"{name}.png"), face_frames[10][..., ::-1])
        cv2.imwrite(str(album / f"{name}.png"), turn(face_frames[10], degrees)[..., ::-1])
    rows = []
    for folder in (album, upright):
        run(RunOptions([folder], csv=tmp_path / "o.csv", rotate="auto"), warn=warnings.append)
        rows.append([(row["file"], row["x"], row["label"]) for row in rows_of(tmp_path / "o.csv")])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    assert [line.partition("turned; ")[2] for line in warnings if "turned" in line] == [
        "bert.png is turned by 270 degrees",
        "carl.png is turned by 180 degrees",
    ]


def test_a_filmed_face_upside_down(shared_data: Path, tmp_path: Path) -> None:
    video = shared_data / "cases" / "upside.mp4"
    warnings: list[str] = []
    run(RunOptions([video]), warn=warnings.append)
    assert any("--rotate 180" in line for line in warnings)
    warnings.clear()
    run(RunOptions([shared_data / "videos" / "single_face.mp4"]), warn=warnings.append)
    assert not any("turned" in line for line in warnings)


def test_every_frame_of_a_filmed_face_shows_that_it_is_upside_down(shared_data: Path) -> None:
    with open_source(shared_data / "videos" / "single_face.mp4") as source:
        frames = [
            Frame(turn(frame.image, 180), 0, 0.0, cut=True, file="a.png") for frame in source if frame.index % 6 == 0
        ]
    automatic = AutoTurn(lambda *_: None)
    degrees = []
    for frame in frames:
        automatic(frame)
        degrees.append(automatic.degrees)
    assert degrees == [180] * len(frames)
