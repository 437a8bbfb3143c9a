"""Digests of clips: what they hold decides, not where they lie nor what the file system says of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.labels import EXPRESSIONS
from dfer.train import digests
from dfer.train.data import ClipSet
from dfer.train.data.lists import Entry
from dfer.train.data.stills import StillClips
from dfer.train.data.videos import VideoClips
from helpers import write_video

SIZE = 40_000  # bytes to which videos are filled up


def write_clips(root: Path, value: int) -> None:
    """A folder of two frames, a video, and a table of one photograph, all in one grey; sizes are always the same."""
    frame = np.full((32, 32, 3), value, np.uint8)
    (root / "clip").mkdir(parents=True, exist_ok=True)
    for name in ("clip/1.bmp", "clip/2.bmp", "still.bmp"):
        cv2.imwrite(str(root / name), frame)
    video = write_video(root / "film.mp4", [frame] * 3, 24)
    with video.open("ab") as end:
        end.write(bytes(SIZE - video.stat().st_size))
    (root / "labels.csv").write_text("image,label,person,split\nstill.bmp,fear,p,train\n")


def open_videos(root: Path) -> ClipSet:
    return VideoClips([Entry("clip", "fear"), Entry("film.mp4", "fear")], root, EXPRESSIONS)


def open_stills(root: Path) -> ClipSet:
    return StillClips(root / "labels.csv", "train")


@pytest.mark.parametrize("open_clips", [open_videos, open_stills])
def test_other_pixels_in_the_same_files_are_other_clips(tmp_path: Path, open_clips: Callable[[Path], ClipSet]) -> None:
    write_clips(tmp_path, 40)
    before = open_clips(tmp_path).fingerprint
    stats = {path: path.stat() for path in tmp_path.rglob("*")}
    write_clips(tmp_path, 200)
    for path, stat in stats.items():
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        now = path.stat()
        assert (now.st_size, now.st_mtime_ns, now.st_ino) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    assert open_clips(tmp_path).fingerprint != before


@pytest.mark.parametrize("name", ["clip/2.bmp", "film.mp4"])
def test_one_changed_file_is_enough(tmp_path: Path, name: str) -> None:
    write_clips(tmp_path, 40)
    before = open_videos(tmp_path).fingerprint
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    assert open_videos(tmp_path).fingerprint != before


@pytest.mark.parametrize("open_clips", [open_videos, open_stills])
def test_copies_and_touched_files_are_the_same_clips(tmp_path: Path, open_clips: Callable[[Path], ClipSet]) -> None:
    write_clips(tmp_path / "here", 40)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for path in (tmp_path / "there").rglob("*"):
        os.utime(path, (1, 1))
    assert open_clips(tmp_path / "here").fingerprint == open_clips(tmp_path / "there").fingerprint


def test_what_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(tmp_path, 40)
    files = [[tmp_path / "clip/1.bmp", tmp_path / "clip/2.bmp"], [tmp_path / "film.mp4"]]
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))  # as if the files were old
    first = digests.content_digests(files)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_content", None)
        assert digests.content_digests(files) == first
    (tmp_path / "film.mp4").write_bytes(b"another")
    second = digests.content_digests(files)
    assert (second[0], second[1] != first[1]) == (first[0], True)


def test_pictures_are_decoded_once_but_damaged_ones_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(tmp_path, 40)
    (tmp_path / "bad.png").write_bytes(b"no image")
    whole, bad = [tmp_path / "clip/1.bmp", tmp_path / "clip/2.bmp"], [tmp_path / "still.bmp", tmp_path / "bad.png"]
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))  # as if the files were old
    assert digests.damaged_pictures([whole, bad]) == [[], ["bad.png"]]
    read: list[Path] = []
    monkeypatch.setattr(digests, "read_image", lambda path: read.append(path))
    assert digests.damaged_pictures([whole, bad]) == [[], ["still.bmp", "bad.png"]]
    assert read == bad


def test_files_that_change_while_they_are_read_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the file system's clock look like one."""
    write_clips(tmp_path, 40)
    digests.content_digests([[tmp_path / "still.bmp"]])
    monkeypatch.setattr(digests, "_content", None)
    with pytest.raises(TypeError):
        digests.content_digests([[tmp_path / "still.bmp"]])


def test_a_name_that_no_file_can_have_is_a_damaged_picture(tmp_path: Path) -> None:
    write_clips(tmp_path, 40)
    names = ["no\0file.png", "absent.png", "still.bmp"]
    assert digests.damaged_pictures([[tmp_path / name for name in names]]) == [names[:2]]
