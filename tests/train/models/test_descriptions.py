"""Descriptions: every class has its own, and a user's file is read or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.labels import MAFW_EXPRESSIONS
from dfer.train.models.descriptions import DESCRIPTIONS, load_descriptions


def test_all_eleven_classes_are_described_and_no_two_alike() -> None:
    assert set(DESCRIPTIONS) == set(MAFW_EXPRESSIONS)
    sentences = [text for name in MAFW_EXPRESSIONS for text in DESCRIPTIONS[name]]
    assert len(set(sentences)) == len(sentences) == 33


def test_a_users_texts_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"fear": [" é wide eyes ", "b"], "anger": "a frown", "boredom": 3}), encoding="utf-8")
    found = load_descriptions(path, ("anger", "fear"))
    assert list(found.items()) == [("anger", ("a frown",)), ("fear", ("é wide eyes", "b"))]
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")  # as Windows' editors save it
    assert load_descriptions(path, ("anger", "fear")) == found


def test_texts_are_found_whether_letters_are_composed_or_not(tmp_path: Path) -> None:
    (path := tmp_path / "texts.json").write_text('{"wu\u0308tend": "an angry face", "ruhig": "a calm face"}', "utf-8")
    assert load_descriptions(path, ("w\u00fctend",)) == {"w\u00fctend": ("an angry face",)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"anger": "x"}', "no text for fear, disgust$"),
        ('{"anger": "x", "fear": 3, "disgust": "y"}', "fear must be a text or a list of texts, not 3"),
        ('{"anger": "x", "fear": ["z", null], "disgust": "y"}', "fear must be a text"),
        ('{"anger": [], "fear": "z", "disgust": "y"}', "anger must be a text"),
        ('{"anger": " ", "fear": "z", "disgust": "y"}', "anger must be a text"),
        ('{"anger": {"positive": "x"}, "fear": "z", "disgust": "y"}', 'anger must have "positive" and "negative"'),
        (
            '{"anger": {"positive": "x", "negative": []}, "fear": "z", "disgust": "y"}',
            "anger, negative, must be a text or a list of texts",
        ),
        ('{"anger": "x", "fear": "z", "anger": "y", "disgust": "y"}', "anger is there twice"),
        ('["anger"]', "must be a JSON object of class → text, not a list"),
        ('{"anger": ', "cannot read JSON"),
        ("\udcff", "cannot read JSON"),
        (None, "cannot read JSON"),
    ],
)
def test_bad_files_are_refused(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DferError, match=words) as caught:
        load_descriptions(path, ("anger", "fear", "disgust"))
    assert "\n" not in str(caught.value)
    assert "texts.json" in str(caught.value)
