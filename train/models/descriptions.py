"""Descriptions of each expression in words: the text side of pre-training and of DFER-CLIP's prompts."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...runtime.errors import DferError, ParameterError
from ...runtime.labels import name_fault
from ...runtime.storage import unique_keys


class Sides(NamedTuple):
    """Texts that describe a class, and texts of what it is not, for methods with negatives; at least one of each."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


Texts = tuple[str, ...] | Sides
"""The texts of a class, at least one."""

DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "happiness": (
        "a happy face: the mouth corners are drawn up, the cheeks are raised and the eyes narrow",
        "a person who smiles broadly and shows the teeth",
        "a cheerful, laughing face",
    ),
    "sadness": (
        "a sad face: the inner brows are raised, the mouth corners hang down and the chin is pushed up",
        "a person close to tears with drooping lids",
        "a sorrowful, crying face",
    ),
    "neutral": (
        "a neutral face: brows, lids and lips are at rest",
        "a person with a calm face and a closed, relaxed mouth",
        "a face that shows no expression",
    ),
    "anger": (
        "an angry face: the brows are lowered and drawn together, the eyes glare and the lips are pressed",
        "a person who frowns with tightened lids and a clenched jaw",
        "a furious, shouting face",
    ),
    "surprise": (
        "a surprised face: the brows are raised high, the eyes are wide open and the jaw has dropped",
        "a person who gapes with an open mouth",
        "an astonished, startled face",
    ),
    "disgust": (
        "a disgusted face: the nose is wrinkled and the upper lip is raised",
        "a person who grimaces as if at a bad smell",
        "a face full of aversion",
    ),
    "fear": (
        "a fearful face: the brows are raised and drawn together, the eyes are wide and the lips stretched",
        "a person who is terrified and shrinks back",
        "a frightened, anxious face",
    ),
    "contempt": (
        "a contemptuous face: one mouth corner alone is tightened and drawn up, and the eyes look down on someone",
        "a person who sneers with half of the mouth",
        "a scornful, superior face",
    ),
    "anxiety": (
        "an anxious face: the inner brows are raised and knitted, the lips are bitten and the eyes dart about",
        "a person who swallows, blinks and cannot keep the face still",
        "a worried, nervous face",
    ),
    "helplessness": (
        "a helpless face: the brows slope up to the middle, the eyes plead and the lips hang slightly open",
        "a person at a loss who shrugs and shakes the head",
        "a powerless, resigned face",
    ),
    "disappointment": (
        "a disappointed face: the gaze drops, the lips are pressed and the mouth corners sink",
        "a person who breathes out slowly and looks away",
        "a let-down, disheartened face",
    ),
}
"""Sentences per class, in our own words, after the facial action units commonly given for each expression."""


def describe(classes: Sequence[str], path: Path | None = None) -> Mapping[str, Texts]:
    """Return descriptions of `classes`, in order, from the file `path` or ours; ParameterError if ours lack a class."""
    if path is not None:
        return load_descriptions(path, classes)
    missing = [name for name in classes if name not in DESCRIPTIONS]
    if missing:
        raise ParameterError("descriptions", f"there are none of {', '.join(missing)}; name a file that has some")
    return {name: DESCRIPTIONS[name] for name in classes}


def load_descriptions(path: Path, classes: Sequence[str] | None = None) -> dict[str, Texts]:
    """Read descriptions of `classes`, in their order, from a JSON object: class → a text, a list of texts, or an object
    with such values for "positive" and "negative".

    classes: None for all classes of the file, in its order, whose names must be valid. Else other classes are ignored.
    Raises DferError for a file that cannot be read, a duplicate class, a class without text, or invalid values.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise DferError(f"descriptions {path}: cannot read JSON ({error})") from error
    if not isinstance(content, dict):
        raise DferError(f"descriptions {path}: must be a JSON object of class → text, not a {type(content).__name__}")
    if classes is None:
        faults = [f"class {name!r} {fault}" for name in content if (fault := name_fault(name))]
        if faults or len(content) < 2:
            raise DferError(f"descriptions {path}: {faults[0] if faults else 'two classes are needed at least'}")
        classes = tuple(content)
    keys = {unicodedata.normalize("NFC", name): name for name in content}
    given = {name: name if name in content else keys.get(unicodedata.normalize("NFC", name)) for name in classes}
    missing = [name for name, key in given.items() if key is None]
    if missing:
        raise DferError(f"descriptions {path}: no text for {', '.join(missing)}")
    return {name: _texts(content[key], name, path) for name, key in given.items()}


def positive_texts(texts: Mapping[str, Texts], method: str) -> dict[str, tuple[str, ...]]:
    """Return the texts of classes for a method without negatives. Raises DferError if a class has negatives."""
    plain: dict[str, tuple[str, ...]] = {}
    for name, several in texts.items():
        if isinstance(several, Sides):
            raise DferError(f"{method} has no negatives, but {name} is given some; leave the positive texts alone")
        plain[name] = several
    return plain


def _texts(value: object, name: str, path: Path) -> Texts:
    if isinstance(value, dict):
        if value.keys() != set(Sides._fields):
            raise DferError(f'descriptions {path}: {name} must have "positive" and "negative", and nothing else')
        return Sides(*(_listed(value[side], f"{name}, {side},", path) for side in Sides._fields))
    return _listed(value, name, path)


def _listed(value: object, name: str, path: Path) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    texts = tuple(text.strip() for text in values if isinstance(text, str) and text.strip())
    if not texts or len(texts) < len(values):
        raise DferError(f"descriptions {path}: {name} must be a text or a list of texts, not {value!r}")
    return texts
