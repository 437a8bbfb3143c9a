"""Films whose metadata turns or mirrors them are shown as they are meant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from dfer.runtime.sources import open_source
from helpers import write_video


@pytest.mark.parametrize(("angle", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_a_film_turned_by_its_metadata_is_shown_upright(tmp_path: Path, angle: int, corner: tuple[int, int]) -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:16, :16] = 240  # top left as it is stored
    video = bytearray(write_video(tmp_path / "v.mp4", [frame] * 5, 10).read_bytes())
    # tkhd, version 0 (ISO 14496-12, 8.3.2): 36 bytes of matrix, 44 after the box's type.
    matrix = video.index(b"tkhd") + 44
    one = 1 << 16
    cosine, sine = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[angle]
    video[matrix : matrix + 36] = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(video)
    with open_source(tmp_path / "turned.mp4") as source:
        image = next(iter(source)).image
    assert image.shape[:2] == ((64, 96) if angle == 180 else (96, 64))
    bright = {(y, x): image[y * 8 :][:8, x * 8 :][:, :8].mean() > 200 for y in (0, -1) for x in (0, -1)}
    assert [place for place, is_bright in bright.items() if is_bright] == [corner]


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((-1, 0, 0, 1), (0, -1)), ((1, 0, 0, -1), (-1, 0)), ((0, 1, 1, 0), (0, 0)), ((0, -1, -1, 0), (-1, -1))],
    ids=["left to right", "upside down", "transposed", "transposed the other way"],
)
def test_a_film_mirrored_by_its_metadata_is_shown_as_meant(
    tmp_path: Path, matrix: tuple[int, ...], corner: tuple[int, int]
) -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:16, :16] = 240  # top left as it is stored
    video = bytearray(write_video(tmp_path / "v.mp4", [frame] * 5, 10).read_bytes())
    a, b, c, d = (one << 16 for one in matrix)
    at = video.index(b"tkhd") + 44
    video[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "mirrored.mp4").write_bytes(video)
    with open_source(tmp_path / "mirrored.mp4") as source:
        image = next(iter(source)).image
    assert image.shape[:2] == ((64, 96) if a else (96, 64))
    bright = {(y, x): image[y * 8 :][:8, x * 8 :][:, :8].mean() > 200 for y in (0, -1) for x in (0, -1)}
    assert [place for place, is_bright in bright.items() if is_bright] == [corner]
