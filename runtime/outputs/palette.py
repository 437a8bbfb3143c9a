"""One colour per class, the same in the video, the plot and the page."""

from __future__ import annotations

import colorsys
import zlib

COLOURS: dict[str, tuple[int, int, int]] = {
    "happiness": (242, 183, 5),
    "sadness": (66, 120, 196),
    "neutral": (158, 163, 171),
    "anger": (214, 57, 50),
    "surprise": (236, 122, 28),
    "disgust": (92, 158, 62),
    "fear": (137, 87, 176),
    "contempt": (142, 104, 84),
    "anxiety": (56, 166, 165),
    "helplessness": (203, 109, 160),
    "disappointment": (94, 98, 130),
    "positive": (242, 183, 5),
    "negative": (66, 120, 196),
    "unsure": (120, 120, 120),
}
"""RGB 0..255."""


def colour_of(name: str) -> tuple[int, int, int]:
    """RGB of a class; for names of one's own a colour that always goes with the name.

    >>> colour_of("boredom") == colour_of("boredom") != colour_of("delight")
    True
    """
    if name in COLOURS:
        return COLOURS[name]
    spread = zlib.crc32(name.encode()) & 0xFFFFFFFF
    red, green, blue = colorsys.hsv_to_rgb((spread % 360) / 360, 0.45 + 0.3 * (spread >> 16 & 1), 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_of(name: str) -> str:
    """The same as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(name))
