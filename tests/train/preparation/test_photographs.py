"""`dfer-prepare --photos`: folders and tables of photographs become aligned crops, a table and honest reports."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dfer.runtime.errors import DferError
from dfer.runtime.faces.detection import FaceDetector
from dfer.train.cli.prepare import main
from dfer.train.data.stills import StillClips
from dfer.train.preparation.photographs import cut_face, find_photographs, prepare_photographs
from helpers import rows_of


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture
def photos(face_photos: list[np.ndarray], tmp_path: Path) -> Path:
    """Six people in three classes, one mirrored copy, a wall and a broken file."""
    root = tmp_path / "photos"
    for index, image in enumerate(face_photos[:6]):
        save(root / ("happy", "sad", "pain")[index % 3] / f"{index}.png", image)
    save(root / "happy" / "mirror.png", face_photos[0][:, ::-1])
    save(root / "sad" / "wall.png", np.full((200, 200, 3), 90, np.uint8))
    (root / "sad" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (root / "__MACOSX").mkdir()
    save(root / "__MACOSX" / "._0.png", face_photos[0])
    return root


def test_a_folder_of_classes_becomes_crops_a_table_and_reports(photos: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "out"
    prepared = prepare_photographs(photos, out, size=64, workers=1, progress=lambda *counts: done.append(counts))
    assert done[-1] == (9, 9)
    assert (prepared.count("ok"), prepared.count("no-face"), prepared.count("unreadable")) == (6, 1, 1)
    assert (prepared.count("copy"), prepared.split_by) == (1, "image")
    rows = rows_of(out / "labels.csv")
    assert {row["label"] for row in rows} == {"happy", "sad", "pain"}
    assert all(row["split"] in ("train", "val") for row in rows)
    for row in rows:
        assert cv2.imread(str(out / "images" / row["image"])).shape == (64, 64, 3)
    states = {row["image"]: row["state"] for row in rows_of(out / "report.csv")}
    assert (states["sad/wall.png"], states["sad/broken.jpg"]) == ("no-face", "unreadable")
    (copy,) = rows_of(out / "copies.csv")
    assert {copy["image"], copy["copy_of"]} == {"happy/0.png", "happy/mirror.png"}


def test_a_second_run_cuts_nothing_anew_and_writes_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare_photographs(photos, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    written = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.jpg")}
    prepare_photographs(photos, out, workers=2)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.jpg")} == written


def test_photographs_that_were_replaced_are_cut_again(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for index in range(4):
        save(photos / "happy" / f"{index}.png", face_photos[index])
    prepare_photographs(photos, out)
    crops = {path.name: path.read_bytes() for path in (out / "images").rglob("*.jpg")}
    os.utime(save(photos / "happy" / "1.png", face_photos[5]), (0, 0))  # an older file, as from an archive
    save(photos / "happy" / "2.png", np.full((200, 200, 3), 90, np.uint8))
    for _ in range(2):
        assert prepare_photographs(photos, out).states == {
            f"happy/{index}.jpg": "no-face" if index == 2 else "ok" for index in range(4)
        }
        changed = {path.name for path in (out / "images").rglob("*.jpg") if path.read_bytes() != crops[path.name]}
        assert changed == {"1.jpg"}
        assert len(rows_of(out / "labels.csv")) == 3


def test_reports_of_earlier_versions_and_stopped_runs_are_continued(
    photos: Path, tmp_path: Path, face_photos: list[np.ndarray]
) -> None:
    out = tmp_path / "out"
    prepare_photographs(photos, out)
    report = (out / "report.csv").read_text()
    written = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.jpg")}
    for _ in range(2):
        lines = [",".join(line.split(",")[:2]) for line in report.splitlines()]
        (out / "report.csv").write_text("\n".join(lines) + "\n")
        prepare_photographs(photos, out)
        assert {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.jpg")} == written
        assert (out / "report.csv").read_text() == report
        (out / "report.csv").unlink()
    save(photos / "happy" / "0.png", face_photos[7])
    later = time.time_ns() + 10**9
    os.utime(photos / "happy" / "0.png", ns=(later, later))
    prepare_photographs(photos, out)
    changed = {path for path in (out / "images").rglob("*.jpg") if path.stat().st_mtime_ns != written[path]}
    assert changed == {out / "images" / "happy" / "0.jpg"}


def test_crops_among_the_photographs_are_none_of_them(photos: Path) -> None:
    out = photos / "faces"
    first = prepare_photographs(photos, out)
    table = (out / "labels.csv").read_bytes()
    assert prepare_photographs(photos, out) == first
    assert (out / "labels.csv").read_bytes() == table
    for place in (photos, out / "labels.csv"):
        with pytest.raises(DferError, match="faces must not go where"):
            prepare_photographs(place, place if place == photos else out)
    assert (out / "labels.csv").read_bytes() == table


def test_crops_of_another_size_are_not_taken_for_finished(photos: Path, tmp_path: Path) -> None:
    prepare_photographs(photos, tmp_path / "out", size=64)
    with pytest.raises(DferError, match=r"size: .*out holds faces of 64 pixels; give that or another folder"):
        prepare_photographs(photos, tmp_path / "out", size=96)


def test_two_photographs_for_one_crop_are_refused_and_not_lost(photos: Path, tmp_path: Path) -> None:
    save(photos / "happy" / "0.jpg", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DferError, match=r"happy/0\.jpg, but happy/0\.jpg and happy/0\.png differ; rename one"):
        prepare_photographs(photos, tmp_path / "out")
    (photos / "votes.csv").write_text("image,label\nhappy/0.png,happy\nsad/1.png,sad\nhappy/0.png,sad\n")
    with pytest.raises(DferError, match=r"happy/0\.jpg, but happy/0\.png is in two rows; join them"):
        prepare_photographs(photos / "votes.csv", tmp_path / "out")


def test_a_copy_never_stands_in_two_splits(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    for split, images in (("train", face_photos[:3]), ("val", face_photos[2:4])):
        for index, image in enumerate(images):
            save(tmp_path / "photos" / split / "happy" / f"{split}{index}.png", image)
    prepare_photographs(tmp_path / "photos", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "labels.csv")
    assert sorted(row["image"] for row in rows if row["split"] == "train") == [
        f"train/happy/train{index}.jpg" for index in (0, 1)
    ]
    assert [row["image"] for row in rows_of(tmp_path / "out" / "copies.csv")] == ["train/happy/train2.png"]


def similar(photo: np.ndarray) -> np.ndarray:
    """Return a photograph like a later frame of its film: too like it for two people, with another mouth."""
    changed = photo.copy()
    cv2.ellipse(changed, (100, 148), (5, 4), 0, 0, 360, (60, 20, 20), -1)
    return changed


def test_two_expressions_of_one_person_are_no_copies_but_one_picture_is_whatever_its_labels(
    face_photos: list[np.ndarray], tmp_path: Path
) -> None:
    save(tmp_path / "photos" / "happy" / "1.png", face_photos[0])
    save(tmp_path / "photos" / "neutral" / "2.png", similar(face_photos[0]))
    save(tmp_path / "photos" / "neutral" / "3.png", face_photos[1])
    save(tmp_path / "photos" / "sad" / "4.png", face_photos[1])
    result = CliRunner().invoke(main, [str(tmp_path / "photos"), str(tmp_path / "out"), "--photos", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert rows_of(tmp_path / "out" / "copies.csv") == [
        {"image": "sad/4.png", "copy_of": "neutral/3.png", "labels": "differ"}
    ]
    assert "1 of 1 copies left out differ in label" in result.output


@pytest.mark.parametrize(
    ("votes", "splits", "copies"),
    [
        (("6,4", "4,6"), ("", ""), [("2.png", "1.png", "agree")]),
        (("9,1", "1,9"), ("", ""), []),
        (("9,1", "1,9"), ("train", "train"), []),
        (("9,1", "1,9"), ("train", "val"), [("1.png", "2.png", "differ")]),
    ],
)
def test_similar_pictures_are_copies_where_their_votes_agree_or_where_they_would_be_in_two_splits(
    face_photos: list[np.ndarray], tmp_path: Path, votes: tuple[str, str], splits: tuple[str, str], copies: list[object]
) -> None:
    save(tmp_path / "1.png", face_photos[0])
    save(tmp_path / "2.png", similar(face_photos[0]))
    rows = [f"{number}.png,{vote},{split}" for number, vote, split in zip((1, 2), votes, splits, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["image,Happy,sadness,split", *rows]))
    prepare_photographs(tmp_path / "table.csv", tmp_path / "out")
    assert [tuple(row.values()) for row in rows_of(tmp_path / "out" / "copies.csv")] == copies


def test_a_table_keeps_its_votes_and_people_stay_together(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    lines = ["image,person,happiness,sadness"]
    for index, image in enumerate(face_photos):
        save(tmp_path / "pictures" / f"{index}.png", image)
        lines.append(f"pictures/{index}.png,p{index % 3},{index},{9 - index}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    prepared = prepare_photographs(tmp_path / "table.csv", tmp_path / "out")
    assert prepared.split_by == "person"
    rows = rows_of(tmp_path / "out" / "labels.csv")
    assert [row["happiness"] for row in rows] == [str(index) for index in range(len(face_photos))]
    for person in {row["person"] for row in rows}:
        assert len({row["split"] for row in rows if row["person"] == person}) == 1


def test_splits_of_a_table_get_the_names_that_training_knows(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    """As FER2013 calls them; the copy among them is the training one."""
    names = ("Training", "PublicTest", "PrivateTest", "Validation", "VAL", "train", "mine")
    for index, image in enumerate([face_photos[1], *face_photos[1 : len(names)]]):
        save(tmp_path / f"{index}.png", image)
    lines = [f"{index}.png,happy,{name}" for index, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["image,label,split", *lines]))
    prepare_photographs(tmp_path / "table.csv", tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "labels.csv")
    assert [row["split"] for row in rows] == ["val", "test", "val", "val", "train", "mine"]
    assert [(row["image"], row["copy_of"]) for row in rows_of(tmp_path / "out" / "copies.csv")] == [("0.png", "1.png")]
    assert len(StillClips(tmp_path / "out" / "labels.csv", "val")) == 3


def test_photographs_without_a_split_go_where_their_person_is(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    rows = ["ann,train", "ann,test", "ann,", "bob,", "bob,val", *["cid,train", "cid,"], "dan,", "dan,"]
    for index, image in enumerate(face_photos):
        save(tmp_path / f"{index}.png", image)
    lines = [f"{index}.png,happy,{row}" for index, row in enumerate(rows)]
    (tmp_path / "table.csv").write_text("\n".join(["image,label,person,split", *lines]))
    result = CliRunner().invoke(
        main, [str(tmp_path / "table.csv"), str(tmp_path / "out"), "--photos", "--workers", "1"]
    )
    assert "splits are by person: of those without one 10 % are val, the others train" in result.output
    splits = [(row["person"], row["split"]) for row in rows_of(tmp_path / "out" / "labels.csv")]
    assert splits[:7] == [
        *[("ann", "train"), ("ann", "test"), ("ann", "test"), ("bob", "val"), ("bob", "val")],
        *[("cid", "train"), ("cid", "train")],
    ]
    assert splits[7] == splits[8]


def test_training_reads_the_crops_wherever_the_photographs_lie(face_photos: list[np.ndarray], tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.jpg", face_photos[0])
    absolute = save(tmp_path / "elsewhere" / "b.png", face_photos[1])
    save(tmp_path / "t" / "c.png", face_photos[2])
    table = tmp_path / "t" / "mine.csv"
    table.write_text(f"image,label,split\n../photos/a.jpg,happy,train\n{absolute},sad,train\n./c.png,fear,train\n")
    out = tmp_path / "stills"
    prepare_photographs(table, out, size=64)
    clips = StillClips(out / "labels.csv", "train")
    assert len(clips) == 3
    assert all(path.resolve().is_relative_to((out / "images").resolve()) for path in clips.paths)
    assert {clips.image(index).shape for index in range(3)} == {(64, 64, 3)}


def test_a_folder_where_training_would_read_the_photographs_uncut_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", np.zeros((64, 64, 3), np.uint8))
    table = tmp_path / "deep" / "mine.csv"
    for place, name in ((tmp_path / "mine.csv", "a.jpg"), (table, "../a.jpg")):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"image,label,split\n{name},happy,train\n")
    with pytest.raises(DferError, match=r"faces must not go where .*mine\.csv lies; name another folder"):
        prepare_photographs(tmp_path / "mine.csv", tmp_path)
    with pytest.raises(DferError, match=r"training would read .*a\.jpg in place of its face; name another folder"):
        prepare_photographs(table, tmp_path)
    assert not (tmp_path / "images").exists()


def test_small_tightly_cropped_pictures_are_found_too(face_photos: list[np.ndarray]) -> None:
    detector = FaceDetector()
    for image in face_photos:
        x, y, w, h = (round(value) for value in detector.detect(image)[0].box)
        part = image[max(0, y) : y + h, max(0, x) : x + w]
        tight = np.asarray(cv2.resize(part, (48, 48), interpolation=cv2.INTER_AREA), np.uint8)
        crop, whole = cut_face(tight, detector, 64), cut_face(image, detector, 64)
        assert crop is not None and whole is not None
        small, reference = (cv2.resize(one[16:, 12:52], (12, 12)).ravel().astype(float) for one in (crop, whole))
        assert np.corrcoef(small, reference)[0, 1] > 0.75


def test_photographs_below_a_linked_class_are_found(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "1.png").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "happy").symlink_to(tmp_path / "disk", target_is_directory=True)
    (found,) = find_photographs(tmp_path / "photos", tmp_path / "out")
    assert (found.cells["image"], found.cells["label"]) == ("happy/1.png", "happy")


def test_pictures_that_are_not_taken_are_told(photos: Path, tmp_path: Path) -> None:
    for name in ("happy/a.HEIC", "sad/b.gif", "sad/notes.txt", "__MACOSX/c.gif"):
        (photos / name).touch()
    result = CliRunner().invoke(main, [str(photos), str(tmp_path / "out"), "--photos", "--workers", "1"])
    assert result.exit_code == 0 and "6 ok" in result.output
    assert "photos: left out for their kinds (.HEIC, .gif), number of files: 2; convert them to .jpg\n" in result.output


def test_places_without_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="no photographs"):
        find_photographs(tmp_path, tmp_path / "out")
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DferError, match=r"a\.png: lies in no folder that names its class"):
        find_photographs(tmp_path, tmp_path / "out")


def test_the_command_says_what_it_found(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(photos), str(tmp_path / "out"), "--photos", "--workers", "1"])
    assert result.exit_code == 0, result.output
    for words in (
        "comparing photographs",
        "6 ok",
        "1 without a face",
        "1 unreadable",
        "1 copies",
        "splits are by image",
        "labels.csv",
    ):
        assert words in result.output


@pytest.mark.parametrize(
    ("folders", "classes", "splits"),
    [
        (("train/angry", "validation/happy"), "classes: anger (1), happiness (1)", {"train", "val"}),  # FER2013
        (("Train/contempt", "Test/Anger"), "classes: anger (1), contempt (1)", {"train", "test"}),  # AffectNet
        (("train/1", "test/7"), "classes: 1 (1), 7 (1)", {"train", "test"}),  # RAF-DB
    ],
)
def test_folders_as_data_sets_come_are_splits_and_classes(
    face_photos: list[np.ndarray], tmp_path: Path, folders: tuple[str, ...], classes: str, splits: set[str]
) -> None:
    for folder, image in zip(folders, face_photos, strict=False):
        save(tmp_path / "photos" / folder / "0.png", image)
    result = CliRunner().invoke(main, [str(tmp_path / "photos"), str(tmp_path / "out"), "--photos", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert classes in result.output
    assert ("1, 7 are classes without a name" in result.output) == (folders[0] == "train/1")
    rows = rows_of(tmp_path / "out" / "labels.csv")
    assert {row["split"] for row in rows} == splits
    assert {row["label"] for row in rows} == {Path(folder).name for folder in folders}


def test_classes_that_cannot_be_trained_on_are_refused_before_faces_are_cut(tmp_path: Path) -> None:
    for label in ("anger", "joy"):
        save(tmp_path / "photos" / label / "0.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DferError, match=r"photos: unknown label 'joy'; .*; did you mean happiness\?"):
        prepare_photographs(tmp_path / "photos", tmp_path / "out")
    (tmp_path / "photos" / "mine.csv").write_text("image,label\nanger/0.png,anger\njoy/0.png,=joy\n")
    with pytest.raises(DferError, match=r"mine\.csv, line 3: label '=joy' begins with"):
        prepare_photographs(tmp_path / "photos" / "mine.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photographs_that_are_not_upright_are_named_until_they_are_turned(
    face_photos: list[np.ndarray], tmp_path: Path
) -> None:
    arguments = [str(tmp_path / "photos"), str(tmp_path / "out"), "--photos", "--workers", "1"]
    save(tmp_path / "photos" / "happy" / "upright.png", face_photos[0])
    picture = save(tmp_path / "photos" / "sad" / "turned.png", face_photos[1][::-1, ::-1])
    for _ in range(2):  # a second run tells it again
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "1 ok, 1 turned" in result.output
        assert "cuts them anew): sad/turned.jpg\n" in result.output
        states = {row["image"]: row["state"] for row in rows_of(tmp_path / "out" / "report.csv")}
        assert states == {"happy/upright.png": "ok", "sad/turned.png": "turned"}
        (tmp_path / "out" / "report.csv").unlink()  # as where a run was stopped
    save(picture, face_photos[1])
    assert "2 photographs: 2 ok, 0 without a face" in CliRunner().invoke(main, arguments).output
