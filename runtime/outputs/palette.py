"""One colour per class, the same in videos, plots and web pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from colorsys import hsv_to_rgb
from functools import cache
from itertools import count

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
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


_OWN: tuple[Colour, ...] = (
    *((225, 0, 180), (180, 225, 15), (0, 240, 180), (225, 210, 135), (0, 105, 255), (255, 0, 120)),
    *((0, 225, 90), (120, 105, 0), (255, 150, 135), (0, 195, 255), (45, 90, 45), (150, 0, 60)),
    *((210, 180, 255), (120, 0, 165), (135, 60, 0), (225, 120, 255), (165, 225, 180), (255, 195, 210)),
    *((135, 15, 105), (180, 180, 45), (0, 150, 105), (120, 60, 90), (210, 150, 75), (0, 90, 90)),
)
"""For custom names: each is as far as possible, in CIELAB, from those before it and from `COLOURS`."""


def colour_of(name: str, classes: Sequence[str]) -> Colour:
    """Return the RGB colour of a class, or of "unsure"; a custom name's depends on its position among such names.

    >>> colour_of("happiness", ["boredom", "happiness"]), colour_of("boredom", ["boredom", "happiness"])
    ((242, 183, 5), (225, 0, 180))
    """
    return _colours(tuple(classes)).get(name) or COLOURS.get(name, COLOURS["unsure"])


def hex_of(name: str, classes: Sequence[str]) -> str:
    """Return the same as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(name, classes))


@cache
def _colours(classes: tuple[str, ...]) -> dict[str, Colour]:
    own, found = _own(), dict[str, Colour]()
    for name in classes:
        known = COLOURS.get(name)
        found[name] = next(own) if known is None or known in found.values() else known  # "positive" equals "happiness"
    return found


def _own() -> Iterator[Colour]:
    """Yield colours for custom names, without end; from the 25th on, adjacent ones differ in hue and brightness."""
    yield from _OWN
    for number in count():
        red, green, blue = hsv_to_rgb(0.618 * number % 1, 0.85, (0.95, 0.55, 0.75)[number % 3])
        yield round(255 * red), round(255 * green), round(255 * blue)
