"""Which files are pictures and which are films."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.sources import open_source

GREY = np.full((32, 48, 3), 128, np.uint8)


@pytest.mark.parametrize("suffix", [".jp2", ".avif"])
def test_still_pictures_of_rarer_formats_are_pictures(tmp_path: Path, suffix: str) -> None:
    if not cv2.haveImageWriter(suffix):
        pytest.skip(f"this OpenCV has no {suffix}")
    cv2.imwrite(str(tmp_path / f"a{suffix}"), GREY)
    cv2.imwrite(str(tmp_path / "b.jpg"), GREY)
    with open_source(tmp_path) as source:
        assert [(frame.file, frame.photo) for frame in source] == [(f"a{suffix}", True), ("b.jpg", True)]
    with open_source(tmp_path / f"a{suffix}") as source:
        assert [abs(int(frame.image.mean()) - 128) < 3 for frame in source] == [True]


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), GREY)
    for name in ("b.HEIC", "c.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"...")
    told: list[str] = []
    with open_source(tmp_path, warn=told.append) as source:
        assert len(list(source)) == 1
    assert told == [f"{tmp_path}: 2 pictures are left out, for .HEIC cannot be read; convert them to .jpg"]


def test_a_folder_of_full_folders_is_told_from_an_empty_one(tmp_path: Path) -> None:
    for name in ("anna", "bert", "@eaDir"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.jpg"), GREY)
    with pytest.raises(DferError, match=r"no images and no videos .*; 2 folders in it are not searched: name them"):
        open_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DferError, match=r"no images and no videos \([^)]*\)$"):
        open_source(tmp_path / "empty")


def huge_tiff(side: int) -> bytes:
    """A TIFF of one grey page that claims `side` × `side` pixels, and has none."""
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, side * side)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.webp", b"RIFF\x08\0\0\0WEBPVP8X", "not an image that OpenCV can read"),
        ("x.tif", b"", "not an image that OpenCV can read"),
        ("x.tif", huge_tiff(40_000), r"more than \d+.* million pixels; to read it"),
    ],
)
def test_a_damaged_picture_is_refused_with_its_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DferError, match=f"{name}: {reason}"):
        open_source(tmp_path / name)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.mp4"])
def test_a_file_that_may_not_be_read_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(mode=0o000)
    with pytest.raises(DferError, match=f"{name}: Permission denied"):
        open_source(tmp_path / name)
