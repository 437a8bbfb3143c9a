"""Calibration faces: from crops, lists and videos; too few are refused; judging faces are kept apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from networks import random_crops, write_crops

from dfer.calibration.faces import load_faces
from dfer.runtime import DferError
from dfer.runtime.faces.detection import FaceDetector
from helpers import write_video


def test_every_fifth_crop_is_kept_apart_and_none_is_in_both(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", random_crops(20))
    measured, kept = load_faces(folder, 24, minimum=20)
    assert measured.frames.shape == (16, 24, 24, 3)
    assert kept.frames.shape == (4, 24, 24, 3)
    seen = {crop.tobytes() for crop in measured.frames}
    assert not seen & {crop.tobytes() for crop in kept.frames}
    assert kept.windows(3).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]


@pytest.mark.parametrize(("films", "part"), [(10, 64), (3, 16), (1, 16)])
def test_frames_of_one_film_are_not_on_both_sides(tmp_path: Path, films: int, part: int) -> None:
    """Frames as dfer-prepare writes them: neighbours, much alike. Of few films, parts of a film are kept apart."""
    (tmp_path / "anger").mkdir()
    for film in range(films):
        frames = np.zeros((64, 32, 32, 3), np.uint8)
        frames[..., 0], frames[..., 1] = film, np.arange(64)[:, None, None]
        write_crops(tmp_path / "anger" / str(film), frames)
    sides = load_faces(tmp_path, 32, minimum=20)
    measured, kept = ({(int(film), int(frame) // part) for film, frame in one.frames[:, 0, 0, :2]} for one in sides)
    assert len(kept) == max(1, films * 64 // part // 5)
    assert measured == {(film, place) for film in range(films) for place in range(64 // part)} - kept


def test_of_many_films_every_one_is_measured_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.calibration.faces.MAXIMUM", 16)
    for film in range(10):
        write_crops(tmp_path / str(film), np.full((8, 32, 32, 3), film, np.uint8))
    sides = load_faces(tmp_path, 32, minimum=20)
    assert [len(one.frames) for one in sides] == [16, 16]
    assert {int(film) for one in sides for film in one.frames[:, 0, 0, 0]} == set(range(10))


def test_few_faces_are_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", random_crops(20))
    with pytest.raises(DferError, match=r"^minimum: 20 frames with a face in .*, 500 are needed"):
        load_faces(folder, 32)
    load_faces(folder, 32, minimum=20)


def test_a_list_says_which_rows_judge_and_what_they_show(tmp_path: Path) -> None:
    write_crops(tmp_path / "images", random_crops(6))
    rows = [f"{index:04}.png,{'anger' if index % 2 else ''},{'val' if index > 3 else 'train'}" for index in range(6)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["image,label,split", *rows]))
    measured, kept = load_faces(table, 32, minimum=6)
    assert (len(measured.frames), kept.labels) == (4, (None, "anger"))
    np.testing.assert_array_equal(kept.frames, random_crops(6)[4:])


def test_a_list_of_faces_to_judge_by_alone_is_refused(tmp_path: Path) -> None:
    write_crops(tmp_path / "images", random_crops(6))
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["image,split", *(f"{index:04}.png,test" for index in range(6))]))
    with pytest.raises(DferError, match="all of splits to be tested on; give some of split train"):
        load_faces(table, 32, minimum=6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture\nx.png", "list.csv: the first line must name"),
        ("image\nabsent.png", "list.csv, line 2: no such image"),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(DferError, match=words):
        load_faces(table, 32, minimum=1)
    with pytest.raises(DferError, match="is no folder or CSV"):
        load_faces(tmp_path / "absent", 32)


def test_faces_of_videos_are_found_and_aligned(face_video: Path) -> None:
    measured, kept = load_faces(face_video.parent, 64, minimum=10)
    assert measured.frames.shape[1:] == (64, 64, 3)
    assert sum(measured.lengths) + sum(kept.lengths) == 24  # three seconds, eight frames each
    assert measured.windows(16).max() == len(measured.frames) - 1
    assert sum(sum(faces.lengths) for faces in load_faces(face_video.parent, 64, minimum=10, fps=4)) == 12


def test_the_largest_face_of_a_frame_is_taken(face_frames: list[np.ndarray], tmp_path: Path) -> None:
    """Beside it is one of half the size, in other colours."""
    pairs = []
    for frame in face_frames[::9]:
        pairs.append(np.concatenate([frame, np.full((240, 160, 3), 128, np.uint8)], axis=1))
        pairs[-1][60:180, 320:] = cv2.resize(frame[..., ::-1], (160, 120), interpolation=cv2.INTER_AREA)
    assert len(FaceDetector().detect(pairs[0])) == 2
    found = []
    for name, width in (("pairs", 480), ("alone", 320)):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "film.mp4", [pair[:, :width] for pair in pairs], 8)
        found.append(load_faces(tmp_path / name, 64, minimum=2)[0].frames.astype(int))
    assert np.abs(found[0] - found[1]).mean() < 5


def test_pictures_of_scenes_are_not_taken_for_crops(tmp_path: Path) -> None:
    wide = np.concatenate([random_crops(4), random_crops(4)], axis=2)
    folder = write_crops(tmp_path / "scenes", wide)
    with pytest.raises(DferError, match="64×32, not a square face crop"):
        load_faces(folder, 32, minimum=2)
