"""Read captions of clips from a JSON Lines file, strictly, dropping clauses that name an emotion."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ...runtime.errors import DferError
from ...runtime.sources.tables import bad_line, read_lines
from ..data.lists import emotion_words

TRAINING = "train"
"""The split whose clips may have captions."""

_BOUNDARY = re.compile(r"[,;.]|\b(?:while|and)\b", re.IGNORECASE)  # between clauses


@dataclass(frozen=True)
class Captions:
    """The captions of clips.

    texts: clip name → its captions, at least one, without clauses that name an emotion.
    dropped: how many such clauses were removed. emptied: how many captions had no other clause and were dropped.
    """

    texts: Mapping[str, tuple[str, ...]]
    dropped: int
    emptied: int

    @property
    def digest(self) -> str:
        """sha256 of clip names and texts."""
        return hashlib.sha256(json.dumps(sorted(self.texts.items())).encode()).hexdigest()

    def report(self, clips: Sequence[str]) -> str:
        """Return a sentence that says how many of `clips` have captions, and what was left out.

        Raises DferError if none has any.
        """
        known = sum(clip in self.texts for clip in clips)
        left_out = f"{self.dropped} clauses that name an emotion and {self.emptied} captions with no other are left out"
        if not known:
            raise DferError(f"captions: none of the {len(clips)} clips to train on has one; {left_out}")
        told = f"captions: {known} of {len(clips)} clips to train on have one, {len(clips) - known} have none"
        return f"{told}; {left_out}"


def read_captions(path: Path, splits: Mapping[str, str], classes: Sequence[str]) -> Captions:
    """Read captions from lines `{"clip": NAME, "text": TEXT or [TEXT, …]}`; other keys are ignored.

    splits: clip name → split, for every clip; only clips of "train" may have captions.
    classes: names that no clause may contain, besides the names of all expressions.
    Raises DferError, naming file, line and clip, for a malformed line, and for a clip that does not exist, is in
    another split, or already has a line.
    """
    lines: dict[str, int] = {}
    given: list[tuple[str, list[str]]] = []
    for number, line in read_lines(path):
        clip, texts = _parse(path, number, line)
        if clip in lines:
            raise bad_line(path, number, f"clip {clip!r} is in line {lines[clip]} already; list its texts in one line")
        if clip not in splits:
            near = get_close_matches(clip, splits, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise bad_line(path, number, f"clip {clip!r} is not among the clips of these data{hint}")
        if splits[clip] != TRAINING:
            raise bad_line(
                path, number, f"clip {clip!r} is of the split {splits[clip]}; only training clips may have captions"
            )
        lines[clip] = number
        given.append((clip, texts))
    return clean_captions(given, classes)


def clean_captions(given: Iterable[tuple[str, Sequence[str]]], classes: Sequence[str]) -> Captions:
    """Drop clauses that name an emotion from the captions (the paper's "Refine")."""
    emotions = emotion_words(classes)
    kept: dict[str, tuple[str, ...]] = {}
    dropped = emptied = 0
    for clip, texts in given:
        cleaned = [drop_clauses(text, emotions) for text in texts]
        left = tuple(text for text, _ in cleaned if text)
        dropped += sum(count for _, count in cleaned)
        emptied += len(texts) - len(left)
        if left:
            kept[clip] = left
    return Captions(kept, dropped, emptied)


def drop_clauses(text: str, unwanted: re.Pattern[str]) -> tuple[str, int]:
    """Remove the clauses of a text that match `unwanted`; return what is left, and how many were removed.

    Clauses end at commas, semicolons, full stops, "while" and "and". The text is "" if no word is left.

    >>> drop_clauses("She looks sad while the inner brows rise, then fall.", re.compile("sad"))
    ('the inner brows rise, then fall', 1)
    """
    clauses = [clause.strip() for clause in _BOUNDARY.split(text)]
    bad = [unwanted.search(unicodedata.normalize("NFC", clause)) is not None for clause in clauses]  # as classes are
    kept = [clause for clause, is_bad in zip(clauses, bad, strict=True) if clause and not is_bad]
    dropped = sum(bad)
    left = ", ".join(kept) if dropped else text.strip()
    return left if re.search(r"\w", left) else "", dropped


def _parse(path: Path, number: int, line: str) -> tuple[str, list[str]]:
    """Return clip name and texts of a line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_line(path, number, f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise bad_line(path, number, f'must be a JSON object {{"clip": …, "text": …}}, not a {type(content).__name__}')
    clip = content.get("clip")
    if not isinstance(clip, str) or not clip:
        raise bad_line(path, number, '"clip" must be the name of a clip')
    if "text" not in content:
        raise bad_line(path, number, f'clip {clip!r} has no "text"')
    texts = [content["text"]] if isinstance(content["text"], str) else content["text"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad_line(path, number, f'clip {clip!r}: "text" must be a text or a list of texts')
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:  # lone surrogates, which JSON can encode
        raise bad_line(path, number, f'clip {clip!r}: "text" is not valid Unicode ({error.reason})') from error
    return clip, texts
