"""Which faces a folder or a table gives, and which of them go together."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError, ParameterError
from dfer.train.distillation.crops import Crops, find_crops


def write(path: Path, height: int = 40, width: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def test_of_a_clip_sixteen_frames_are_taken_which_stay_together(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / "anger" / "film" / f"{number:05}.png")
    write(tmp_path / "anger" / "portrait.png")
    write(tmp_path / ".hidden" / "x.png")
    paths, groups = find_crops(tmp_path)
    assert sorted(path.name for path in paths) == sorted(
        ["portrait.png", *(f"{round(number * 39 / 15):05}.png" for number in range(16))]
    )
    assert groups.count(None) == 1
    assert set(groups) - {None} == {str(Path("anger") / "film")}


def test_of_a_table_the_training_split_is_taken(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / "images" / f"{name}.png")
    table = tmp_path / "labels.csv"
    table.write_text("image,label,person,split\na.png,anger,Ann,train\nb.png,fear,,train\nc.png,fear,Cid,val\n")
    paths, groups = find_crops(table)
    assert [path.name for path in paths] == ["a.png", "b.png"]
    assert groups == ["Ann", None]
    table.write_text("image\na.png\nc.png\n")
    assert len(find_crops(table)[0]) == 2
    assert find_crops(tmp_path) == find_crops(table)
    table.write_text("image,split\na.png,Training\nc.png,val\n")
    with pytest.raises(ParameterError, match=r"csv: no rows with split 'train'; its splits are Training, val$"):
        find_crops(table)


def test_what_is_no_crop_of_a_face_is_told_with_what_to_do(tmp_path: Path) -> None:
    film = tmp_path / "my film.mp4"
    film.write_bytes(b"")
    for place, told in ((film, f"'{film}'"), (tmp_path, str(tmp_path))):
        with pytest.raises(ParameterError, match=f"cut the faces out of the videos first: dfer-prepare {told} FACES"):
            find_crops(place)
    pictures = [write(tmp_path / "face.png"), write(tmp_path / "scene.png", 40, 80)]
    with pytest.raises(DferError, match=r"scene\.png is 80×40, not a square crop of a face"):
        Crops(pictures, [None, None], ("anger",))  # at once, not when its turn comes, perhaps after hours


def test_videos_that_are_left_out_beside_pictures_are_told(tmp_path: Path) -> None:
    thumbnail, told = write(tmp_path / "films" / "thumbnail.png"), list[str]()
    assert find_crops(tmp_path, told.append)[0] == [thumbnail]
    assert not told
    for name in ("a.mp4", "b.MKV", ".c.mp4"):
        (tmp_path / "films" / name).write_bytes(b"")
    assert find_crops(tmp_path, told.append)[0] == [thumbnail]
    (told_once,) = told
    assert "has videos too (2); cut the faces out of the videos first: dfer-prepare" in told_once


def test_damaged_pictures_are_left_out_and_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.png") for number in range(200)]
    paths[7].write_bytes(b"nothing")
    told: list[str] = []
    crops = Crops(paths, [None] * 200, ("anger",), 64, told.append)
    assert len(crops) == 199
    assert "7.png" in told[0]
    assert crops.frames(0).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", ["train", "Training"])
def test_of_a_divided_folder_only_training_faces_are_taken(tmp_path: Path, name: str) -> None:
    faces = tmp_path / "faces"
    wanted = [write(faces / name / "fear" / "a" / "0.png"), write(faces / name / "fear" / "portrait.png")]
    for split in ("val", "test"):
        write(faces / split / "fear" / "b" / "0.png")
    paths, groups = find_crops(faces)
    assert sorted(paths) == sorted(wanted)
    assert set(groups) == {None, str(Path("fear") / "a")}
    shutil.rmtree(faces / name)
    with pytest.raises(ParameterError, match="train has no pictures of faces to learn from"):
        find_crops(faces)
