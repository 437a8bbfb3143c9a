"""Names and order of the expression classes, shared by training, export and serving; rules for class names."""

from __future__ import annotations

import unicodedata

EXPRESSIONS: tuple[str, ...] = (
    "happiness",
    "sadness",
    "neutral",
    "anger",
    "surprise",
    "disgust",
    "fear",
)
"""Seven classes in DFER-CLIP's order; a class's index is its position here. Other data sets are mapped by name."""

MAFW_EXPRESSIONS: tuple[str, ...] = (*EXPRESSIONS, "contempt", "anxiety", "helplessness", "disappointment")
"""The eleven classes of MAFW, in DFER-CLIP's order."""

UNSURE = "unsure"
"""The label when even the most probable class is too improbable."""

COLUMNS = (
    ("source", "frame", "time_s", "track", "x", "y", "w", "h", "label", "confidence", "entropy"),
    ("state", "quality", "file"),
)
"""CSV columns before and after the class columns."""
RESERVED = (*COLUMNS[0], *COLUMNS[1], UNSURE)
"""Names that no class may have: CSV columns, and `UNSURE`."""

LONGEST_NAME = 64

_SPELT = str.maketrans("øłđıØŁĐ’–", "oldiOLD'-") | str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "Æ": "AE", "Œ": "OE"}
)
"""Characters that Unicode does not decompose into a base letter and an accent."""


def name_fault(name: object) -> str | None:
    """Return why something cannot be a class name, None if it can.

    Names appear in terminals, web pages, plots and spreadsheets, where some characters are interpreted.

    >>> name_fault("joy"), name_fault("[red]joy")
    (None, 'holds "["')
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        return "is no name"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    if not name.isprintable():
        return "holds what cannot be printed"
    if marks := [mark for mark in name if mark in "[]<>$\\"]:
        return f'holds "{marks[0]}"'
    if name[0] in "=+-@_":
        return f'begins with "{name[0]}"'
    if name in RESERVED:
        return "is taken (a column, or unsure)"
    return None


def in_ascii(name: str) -> str:
    """Return a name in ASCII, all that OpenCV's font has: without accents, "?" for non-Latin letters.

    >>> in_ascii("Größe"), in_ascii("高兴")
    ('Grosse', '??')
    """
    if name.isascii():
        return name
    letters = unicodedata.normalize("NFKD", name.translate(_SPELT))
    return "".join(one for one in letters if not unicodedata.combining(one)).encode("ascii", "replace").decode()
