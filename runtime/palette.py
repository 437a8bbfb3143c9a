"""One colour per class, the same in the video and the plot."""

from __future__ import annotations

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
}
"""RGB 0..255."""

_OTHER = (120, 120, 120)


def colour_of(name: str) -> tuple[int, int, int]:
    """RGB of a class; grey for classes of other models."""
    return COLOURS.get(name, _OTHER)
