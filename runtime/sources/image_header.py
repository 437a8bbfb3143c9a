"""How large a picture is, from its first bytes: what decoding it would cost is known before any memory is spent."""

from __future__ import annotations

import struct

from ..errors import DferError

MOST_PIXELS = 100_000_000
"""Of a picture that is read: width × height, 300 MB as RGB."""


def check_pixels(data: bytes, name: str, most: int = MOST_PIXELS) -> None:
    """Raise DferError, naming the picture, when its header says that it has more than `most` pixels.

    data: an image file, or as much of its beginning as holds the header (64 kB will do for all but JPEGs with large
    profiles, and TIFFs, whose directory may stand at the end).
    """
    size = image_size(data)
    if size is not None and size[0] * size[1] > most:
        raise DferError(
            f"{name}: {size[0]}×{size[1]} pixels, more than the {most / 1e6:g} million that are read; make it smaller"
        )


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that a PNG, JPEG, BMP, WebP, GIF or TIFF file says it has; of animations the canvas,
    of multi-page TIFFs the largest page. None for other formats, and where the header is cut off or makes no sense."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _plausible(*struct.unpack_from(">II", data, 16))
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff(data)
    except (struct.error, IndexError):  # cut off
        return None
    return None


def _plausible(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width > 0 and height > 0 else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """The frame header (SOF) stands among the segments before the first scan."""
    place = 2
    while True:
        if data[place] != 0xFF:
            return None
        while data[place] == 0xFF:  # padding
            place += 1
        marker = data[place]
        if marker in (0xD9, 0xDA):  # the end, or the pixels
            return None
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # alone, without a length
            place += 1
            continue
        (length,) = struct.unpack_from(">H", data, place + 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 4)
            return _plausible(width, height)
        if length < 2:
            return None
        place += 1 + length


def _bmp(data: bytes) -> tuple[int, int] | None:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return _plausible(width, abs(height))  # negative: rows from the top


def _gif(data: bytes) -> tuple[int, int] | None:
    """The screen, which its pictures are drawn on; the first picture may be larger than it says."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while place < len(data) and data[place] == 0x21:  # extensions: a label, then blocks with their lengths
        place += 2
        while length := data[place]:
            place += 1 + length
        place += 1
    if place < len(data) and data[place] == 0x2C:
        left, top, across, down = struct.unpack_from("<HHHH", data, place + 1)
        width, height = max(width, left + across), max(height, top + down)
    return _plausible(width, height)


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":  # 24 bits each, less one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + struct.unpack_from("<I", data, 26)[0] // 256
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _plausible(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":  # 14 bits each, less one
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    """Tags 256 and 257 of each page's directory, which may be anywhere in the file."""
    order = "<" if data.startswith(b"II") else ">"
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    largest: tuple[int, int] | None = None
    seen: set[int] = set()
    while place and place not in seen and len(seen) < 1000:
        seen.add(place)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        if count > 1000:  # a page has some twenty
            break
        sides: dict[int, int] = {}
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            if tag in (256, 257):
                (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
        size = _plausible(sides.get(256, 0), sides.get(257, 0))
        if size and (largest is None or size[0] * size[1] > largest[0] * largest[1]):
            largest = size
        (place,) = struct.unpack_from(f"{order}I", data, place + 2 + 12 * count)
    return largest
