"""The names and order of the expression classes, shared by training, export and serving; and what a name may be."""

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
"""Seven classes in DFER-CLIP's order; a class's index is its place here. Other data is mapped by name."""

MAFW_EXPRESSIONS: tuple[str, ...] = (*EXPRESSIONS, "contempt", "anxiety", "helplessness", "disappointment")
"""The eleven classes of MAFW, in DFER-CLIP's order."""

UNSURE = "unsure"
"""In place of a class: where even the most probable one is too improbable to be believed."""

COLUMNS = (
    ("source", "frame", "time_s", "track", "x", "y", "w", "h", "label", "confidence", "entropy"),
    ("state", "quality", "file"),
)
"""Of the CSV, before and after those of the classes."""
RESERVED = (*COLUMNS[0], *COLUMNS[1], UNSURE)
"""Names that no class may have: columns of the CSV, and the label of what is not known."""

LONGEST_NAME = 64

_SPELT = str.maketrans("øłđıØŁĐ’–", "oldiOLD'-") | str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "Æ": "AE", "Œ": "OE"}
)
"""Letters and marks that are no other ones with an accent."""


def name_fault(name: object) -> str | None:
    """Why something cannot be a class's name, None when it can.

    Names are shown in terminals, on pages, in plots and spreadsheets, which take some characters for commands.

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
    """A name as pictures have it, whose font has ASCII alone: without accents, "?" for what is not Latin.

    >>> in_ascii("Größe"), in_ascii("高兴")
    ('Grosse', '??')
    """
    if name.isascii():
        return name
    letters = unicodedata.normalize("NFKD", name.translate(_SPELT))
    return "".join(one for one in letters if not unicodedata.combining(one)).encode("ascii", "replace").decode()
