"""Benchmarks and one's own clips, found where their authors put them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from dfer.train.data.benchmarks import DATA, load_clips
from dfer.train.data.videos import VideoClips

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def put(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def film(root: Path, *folders: str) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "1.png").write_bytes(PIXEL)


def named(clips: VideoClips, root: Path) -> list[tuple[str, str]]:
    return [
        (path.relative_to(root).as_posix(), clips.classes[label])
        for path, label in zip(clips.paths, clips.labels, strict=True)
    ]


def test_dfew_as_released(tmp_path: Path) -> None:
    put(tmp_path / "EmoLabel_DataSplit/train(single-labeled)/set_2.csv", ["video_name,label", "2,6", "00013,1"])
    put(tmp_path / "EmoLabel_DataSplit/test(single-labeled)/set_2.csv", ["video_name,label", "7,3"])
    frames = "Clip/clip_224x224/"
    film(tmp_path, *(frames + name for name in ("00002", "00013", "00007")))
    train = load_clips("dfew", tmp_path, "train", fold=2, size=32)
    assert named(train, tmp_path) == [(frames + "00002", "disgust"), (frames + "00013", "happiness")]
    assert train.frames(0).shape == (16, 32, 32, 3)
    assert named(load_clips("dfew", tmp_path, "test", fold=2), tmp_path) == [(frames + "00007", "neutral")]
    with pytest.raises(DferError, match=r"EmoLabel_DataSplit/train\(single-labeled\)/set_1.csv or .*DFEW_set"):
        load_clips("dfew", tmp_path, "train", fold=1)


def test_ferv39k_as_released(tmp_path: Path) -> None:
    put(tmp_path / "4_setups/All_scenes/test_All.csv", ["Action/Sad/0010 Sad", "War/Angry/0010 Angry"])
    film(tmp_path, "2_ClipsforFaceCrop/Action/Sad/0010", "2_ClipsforFaceCrop/War/Angry/0010")
    assert named(load_clips("ferv39k", tmp_path, "test"), tmp_path / "2_ClipsforFaceCrop") == [
        ("Action/Sad/0010", "sadness"),
        ("War/Angry/0010", "anger"),
    ]


def test_mafw_as_released_and_as_prepared(tmp_path: Path) -> None:
    mafw, faces = tmp_path / "MAFW", tmp_path / "faces"
    put(mafw / "Train & Test Set/single/no_caption/set_1/train.txt", ["03747.mp4 anger", "00001.mp4 helplessness"])
    film(mafw / "data/faces", "03747", "00001")
    clips = load_clips("mafw", mafw, "train")
    assert clips.classes == MAFW_EXPRESSIONS
    assert named(clips, mafw / "data/faces") == [("03747", "anger"), ("00001", "helplessness")]
    film(faces, "03747", "00001")
    assert named(load_clips("mafw", faces, "train", lists=mafw), faces) == [
        ("03747", "anger"),
        ("00001", "helplessness"),
    ]


@pytest.mark.parametrize(
    ("root", "frames"),
    [
        ("DFEW", "DFEW/DFEW_Frame_Face"),
        (".", "DFEW/DFEW_Frame_Face"),
        ("DFEW/DFEW_Frame_Face", "DFEW/DFEW_Frame_Face"),
        ("mine", "mine/Clip/clip_224x224"),
        ("mine", "mine/DFEW_Frame_Face"),
    ],
)
def test_lists_of_another_machine_are_rerooted(tmp_path: Path, root: str, frames: str) -> None:
    lines = [f"/data/EECS/datasets/DFEW/DFEW_Frame_Face/0000{number} 16 {number}" for number in range(4)]
    put(tmp_path / "lists/DFEW_set_1_test.txt", lines)
    film(tmp_path / frames, *(f"0000{number}" for number in range(4)))
    for lists in (tmp_path / "lists", tmp_path / "lists/DFEW_set_1_test.txt"):
        clips = load_clips("dfew", tmp_path / root, "test", lists=lists)
        assert named(clips, tmp_path / frames) == [(f"0000{number}", EXPRESSIONS[number]) for number in range(4)]


def test_a_clip_of_the_same_number_elsewhere_is_not_taken(tmp_path: Path) -> None:
    lines = [f"/data/FERV39K/2_ClipsforFaceCrop/{clip} 16 1" for clip in ("Action/Sad/0001", "Action/Sad/0002")]
    put(tmp_path / "FERV39K_train.txt", lines)
    film(tmp_path, "2_ClipsforFaceCrop/Action/Sad/0001", "2_ClipsforFaceCrop/Action/Sad/0002", "0001", "0002")
    clips = load_clips("ferv39k", tmp_path, "train")
    assert [name for name, _ in named(clips, tmp_path / "2_ClipsforFaceCrop/Action/Sad")] == ["0001", "0002"]


def test_the_real_mafw_lists_against_synthetic_frames(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "annotations"
    names = [Path(line.split()[0]).name for line in (folder / "MAFW_set_1_test.txt").read_text().splitlines()]
    film(tmp_path / "data/faces", *names[:-10])
    clips = load_clips("mafw", tmp_path, "test", lists=folder)
    assert (len(clips), len(clips.missing)) == (1829, 10)
    with pytest.raises(DferError, match="10 of 1839 clips"):
        load_clips("mafw", tmp_path, "test", lists=folder, max_missing=0.005)


def test_folders_and_tables(tmp_path: Path) -> None:
    film(tmp_path, "train/Happy/a", "train/Fear/b", "test/Fear/c")
    put(tmp_path / "labels.csv", ["clip,label,split,person", "train/Happy/a.mp4,happy,dev,p", "test/Fear/c,fear,dev,"])
    train = load_clips("folder", tmp_path, "train")
    assert named(train, tmp_path) == [("train/Fear/b", "fear"), ("train/Happy/a", "happiness")]
    assert train.groups == [None, None]
    assert named(load_clips("folder", tmp_path, "test"), tmp_path) == [("test/Fear/c", "fear")]
    for root, lists in ((tmp_path, None), (tmp_path / "labels.csv", None), (tmp_path, tmp_path / "labels.csv")):
        table = load_clips("csv", root, "dev", lists=lists)
        assert named(table, tmp_path) == [("train/Happy/a", "happiness"), ("test/Fear/c", "fear")]
        assert table.groups == ["p", None]


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        ("afew", {}, f"unknown data 'afew'; choose from {', '.join(DATA)}"),
        ("dfew", {"split": "val"}, "dfew has no split 'val'"),
        ("dfew", {"fold": 6}, "dfew has no fold 6; its folds are 1 to 5"),
        ("ferv39k", {"fold": 2}, "ferv39k has no fold 2"),
        ("folder", {"fold": 2}, "use csv"),
        ("csv", {}, "labels.csv: No such file"),
        ("mafw", {"lists": Path("absent")}, "no annotations in absent: looked for Train & Test Set"),
    ],
)
def test_what_does_not_exist_is_refused(tmp_path: Path, data: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(DferError, match=words):
        load_clips(data, tmp_path, **{"split": "train", **arguments})


def test_a_root_without_the_clips_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "FERV39K_test.txt", ["/data/FERV39K/2_ClipsforFaceCrop/Action/Happy/0015 25 0"])
    with pytest.raises(DferError, match=r"none of the listed clips, such as /data/FERV39K/.*0015, is under .*2_Clips"):
        load_clips("ferv39k", tmp_path, "test")
    with pytest.raises(DferError, match="no such file or folder"):
        load_clips("ferv39k", tmp_path / "absent", "test")
    put(tmp_path / "FERV39K_test.txt", [])
    with pytest.raises(DferError, match="names no clips"):
        load_clips("ferv39k", tmp_path, "test")
