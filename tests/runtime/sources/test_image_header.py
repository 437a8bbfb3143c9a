"""How large pictures say they are, before anybody decodes them."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfer.runtime.errors import DferError
from dfer.runtime.sources.image_header import check_pixels, image_size


def encoded(suffix: str, width: int = 37, height: int = 21) -> bytes:
    done, data = cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))
    assert done
    return data.tobytes()


def by_pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    Image.new(mode, (37, 21)).save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    **{suffix: encoded(suffix) for suffix in (".png", ".jpg", ".bmp", ".tiff")},
    "progressive": by_pillow("JPEG", progressive=True),
    "with a profile": by_pillow("JPEG", icc_profile=bytes(90_000)),
    "GIF": by_pillow("GIF", "P"),
    "animated GIF": by_pillow("GIF", "P", save_all=True, append_images=[Image.new("P", (37, 21), 1)], loop=0),
    "WebP": by_pillow("WEBP"),
    "lossless WebP": by_pillow("WEBP", lossless=True),
    "animated WebP": by_pillow("WEBP", save_all=True, append_images=[Image.new("RGB", (37, 21), "red")]),
    "TIFF of pages": by_pillow("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    "compressed TIFF": by_pillow("TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_the_size_is_what_a_decoder_finds(kind: str) -> None:
    assert image_size(PICTURES[kind]) == (37, 21)
    check_pixels(PICTURES[kind], kind)
    with pytest.raises(DferError, match=r"x\.png: 37×21 pixels, more than the 0.0007 million"):
        check_pixels(PICTURES[kind], "x.png", most=700)


def test_a_small_file_of_a_huge_picture_is_refused_undecoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(90_000)))
    with pytest.raises(DferError, match=r"bomb\.png: 30000×30000 pixels, more than the 100 million") as caught:
        check_pixels(bomb, "bomb.png")
    assert "\n" not in str(caught.value)


def test_a_gif_whose_picture_is_larger_than_its_screen_is_as_large_as_that() -> None:
    data = bytearray(by_pillow("GIF", "P"))
    place = data.index(b"\x2c\0\0\0\0\x25\0\x15\0")
    data[place + 5 : place + 9] = struct.pack("<HH", 60_000, 50_000)
    assert image_size(bytes(data)) == (60_000, 50_000)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0\0\0", b"BM", b"II*\0\x08\0\0\0", b"text"])
def test_what_is_no_picture_or_cut_off_has_no_size(data: bytes) -> None:
    assert image_size(data) is None
    check_pixels(data, "x")


def test_a_directory_that_leads_back_to_itself_ends() -> None:
    assert image_size(b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 8)) is None


@settings(deadline=None)
@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF89a", b"RIFF1234WEBPVP8", b"II*\0", b"MM\0*"]),
    st.binary(),
)
def test_any_header_has_a_size_or_none(begin: bytes, rest: bytes) -> None:
    size = image_size(begin + rest)
    assert size is None or min(size) > 0


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", PICTURES)
def test_mutants_have_a_size_or_none(kind: str, count: int) -> None:
    draw = random.Random(11)
    for _ in range(count):
        data = bytearray(PICTURES[kind])
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(len(data), 400))] = draw.randrange(256)
        size = image_size(bytes(data[: draw.choice((len(data), draw.randrange(len(data))))]))
        assert size is None or min(size) > 0
