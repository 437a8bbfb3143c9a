"""Calibration faces: from crops, lists and videos; too few are refused; judging faces are kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import random_crops, write_crops

from dfer.calibration.faces import load_faces
from dfer.runtime import DferError


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


def test_pictures_of_scenes_are_not_taken_for_crops(tmp_path: Path) -> None:
    wide = np.concatenate([random_crops(4), random_crops(4)], axis=2)
    folder = write_crops(tmp_path / "scenes", wide)
    with pytest.raises(DferError, match="64×32, not a square face crop"):
        load_faces(folder, 32, minimum=2)
