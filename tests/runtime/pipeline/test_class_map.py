"""Classes of one's own: renamed, joined, left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.pipeline.class_map import ClassMap


def test_classes_are_renamed_joined_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    names = {"happiness": "positive", "neutral": None} | dict.fromkeys(
        ("sadness", "anger", "disgust", "fear"), "negative"
    )
    path.write_text(json.dumps(names))
    mapping = ClassMap.read(path, EXPRESSIONS)
    assert mapping.classes == ("positive", "negative", "surprise")
    before = np.array([0.2, 0.1, 0.5, 0.1, 0.1, 0.0, 0.0])
    assert mapping.apply(before) == pytest.approx([0.4, 0.4, 0.2])


@given(st.data())
def test_probabilities_stay_probabilities_whatever_is_mapped(data: st.DataObject) -> None:
    new_names = st.sampled_from([None, "a", "b", "c"])
    names = data.draw(st.dictionaries(st.sampled_from(EXPRESSIONS[1:]), new_names))
    before = np.array(data.draw(st.lists(st.floats(0, 1), min_size=7, max_size=7)))
    mapping = ClassMap.of(names, EXPRESSIONS)
    after = mapping.apply(before)
    assert after.shape == (len(mapping.classes),)
    assert after.sum() == pytest.approx(1)
    assert (after >= 0).all()


def test_an_empty_map_changes_nothing() -> None:
    before = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1])
    mapping = ClassMap.of({}, EXPRESSIONS)
    assert mapping.classes == EXPRESSIONS
    assert mapping.apply(before) == pytest.approx(before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read JSON"),
        ("[" * 100_000, "cannot read JSON"),
        ('["happiness"]', "must hold an object"),
        ("[]", "must hold an object"),
        ('{"joy": "happiness"}', 'no "joy"; it has happiness, sadness'),
        ('{"' + "joy" * 3000 + '": "happiness"}', 'no "(joy){20}"; it has happiness'),
        ('{"happiness": 3}', "is no name; choose another"),
        ('{"happiness": " "}', "is no name"),
        ('{"happiness": "a\\nb"}', "holds what cannot be printed"),
        ('{"happiness": "\\ud800"}', "holds what cannot be printed"),
        ('{"happiness": "[red]joy"}', r'holds "\["'),
        ('{"\\u001b[2J": "joy"}', r"no .\\x1b\[2J"),
        ('{"happiness": 1' + "0" * 5000 + "}", "cannot read JSON"),
        ('{"happiness": "label"}', "is taken"),
        ('{"happiness": "a", "happiness": "b"}', "happiness is there twice"),
        (json.dumps(dict.fromkeys(EXPRESSIONS)), "leaves no class"),
    ],
)
def test_a_file_that_means_nothing_is_an_error_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DferError, match=words) as error:
        ClassMap.read(path, EXPRESSIONS)
    assert str(error.value).startswith(f"classes: {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_be_saved_as_windows_saves_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"happiness": "Größe"}', encoding=encoding)
    assert ClassMap.read(path, EXPRESSIONS).classes[0] == "Größe"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"no\.json: No such file"):
        ClassMap.read(tmp_path / "no.json", EXPRESSIONS)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(EXPRESSIONS), inner),
)


@given(anything)
def test_any_json_is_a_map_or_one_line_that_can_be_shown(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    try:
        names = ClassMap.read(path, EXPRESSIONS).classes
    except DferError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert 1 <= len(names) == len(set(names)) and all(name.isprintable() for name in names)
