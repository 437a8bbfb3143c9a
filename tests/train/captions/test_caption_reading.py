"""Captions from a file: strictly read, each mistake named, and nothing left that names an emotion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.captions.reading import Captions, clean_captions, drop_clauses, read_captions
from dfer.train.data.choice import DataChoice
from dfer.train.data.lists import emotion_words

SPLITS = {"a": "train", "b": "train", "joy/c.mp4": "train", "t": "test", "v": "val"}
EMOTIONS = emotion_words(EXPRESSIONS)


def read(path: Path, *lines: object) -> Captions:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return read_captions(path, SPLITS, EXPRESSIONS)


def test_captions_are_read_and_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path / "c.jsonl",
        {"clip": "a", "text": "The brows rise, the person seems surprised, then the jaw drops."},
        "",
        {"clip": "b", "text": ["Lips part", "he is furious", ""], "prompt": "what the answer was to"},
        {"clip": "joy/c.mp4", "text": "a happy face and a smile; pure joy"},
    )
    assert found.texts == {"a": ("The brows rise, then the jaw drops",), "b": ("Lips part",)}
    assert (found.dropped, found.emptied) == (5, 3)
    assert found.report(["a", "b", "joy/c.mp4"]) == (
        "captions: 2 of 3 clips to train on have one, 1 have none; "
        "5 clauses that name an emotion and 3 captions with no other are left out"
    )
    with pytest.raises(DferError, match="none of the 1 clips to train on has one"):
        found.report(["joy/c.mp4"])
    assert found.digest != clean_captions([("a", ["Lips part"])], EXPRESSIONS).digest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"clip": "a", "text": ', "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('["a", "text"]', "line 2: must be a JSON object .* not a list"),
        ({"text": "x"}, 'line 2: "clip" must be the name of a clip'),
        ({"clip": 7, "text": "x"}, 'line 2: "clip" must be'),
        ({"clip": "a"}, "line 2: clip 'a' has no \"text\""),
        ({"clip": "a", "text": 3}, "line 2: clip 'a': \"text\" must be a text or a list"),
        ({"clip": "a", "text": ["x", None]}, "line 2: clip 'a': \"text\" must be a text or a list"),
        ('{"clip": "a", "text": "\\ud800"}', "line 2: clip 'a': \"text\" is not valid Unicode"),
        ({"clip": "t", "text": "x"}, "line 2: clip 't' is of the split test; only training clips"),
        ({"clip": "v", "text": "x"}, "line 2: clip 'v' is of the split val"),
        ({"clip": "joy/c", "text": "x"}, "line 2: clip 'joy/c' is not among .* did you mean 'joy/c.mp4'"),
        ({"clip": "b", "text": "x"}, "line 2: clip 'b' is in line 1 already"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_clip(tmp_path: Path, line: object, words: str) -> None:
    with pytest.raises(DferError, match=rf"c\.jsonl, {words}") as caught:
        read(tmp_path / "c.jsonl", {"clip": "b", "text": "x"}, line)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_file_gets_through_but_as_captions_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "wild.jsonl"
    path.write_bytes(content)
    try:
        assert read_captions(path, SPLITS, EXPRESSIONS).texts == {}
    except DferError as error:
        assert "\n" not in str(error)


EMOTIONAL = ["happy", "HAPPINESS", "sadly", "Fearful", "joy", "rage", "worried"]
WORDS = st.sampled_from([*EMOTIONAL, "the brows rise", "lips", "hand", "candy", ",", ";", ".", "and", "while", "\t"])


@given(st.text(max_size=80) | st.lists(WORDS, max_size=15).map(" ".join))
def test_what_is_left_names_no_emotion_and_stays_as_it_is(text: str) -> None:
    left, dropped = drop_clauses(text, EMOTIONS)
    assert not EMOTIONS.search(left)
    assert (dropped > 0) == (EMOTIONS.search(text) is not None)
    assert drop_clauses(left, EMOTIONS) == (left, 0)
    if not dropped:
        assert left in (text.strip(), "")


@pytest.mark.parametrize(
    "text",
    [
        "He smiles",
        "a grin",
        "a fearful look",
        "Sad",
        "as if terrified",
        "looking worried",
        "NEUTRAL",
        "a disgusted face",
        "in pain",
    ],
)
def test_these_name_an_emotion(text: str) -> None:
    assert drop_clauses(text, emotion_words((*EXPRESSIONS, "pain"))) == ("", 1)


@pytest.mark.parametrize(
    "text",
    [
        "the mouth is made wider",
        "none of the brows move",
        "what happens is slow",
        "the lip corners are depressed",
        "he grinds",
        "a hand",
    ],
)
def test_these_name_none(text: str) -> None:
    assert drop_clauses(text, EMOTIONS) == (text, 0)


def test_a_class_is_dropped_whether_letters_are_composed_or_not() -> None:
    captions = clean_captions([("a", ["sehr wu\u0308tend, der Mund steht offen"])], ("w\u00fctend", "ruhig"))
    assert captions.texts == {"a": ("der Mund steht offen",)}


def test_the_splits_of_folders_tables_and_benchmarks(tmp_path: Path) -> None:
    for clip in ("train/fear/1", "test/fear/2", "val/anger/3"):
        (tmp_path / "divided" / clip).mkdir(parents=True)
    (tmp_path / "whole" / "fear" / "1").mkdir(parents=True)
    table = tmp_path / "labels.csv"
    table.write_text(
        "clip,label,split,fold\nx,fear,train,1\nx,fear,test,2\ny,fear,train,1\ny,fear,test,1\nz,fear,val,\n"
    )
    dfew = tmp_path / "dfew"
    for split, rows in (("train", "1,1\n2,2\n"), ("test", "3,1\n")):
        folder = dfew / "EmoLabel_DataSplit" / f"{split}(single-labeled)"
        folder.mkdir(parents=True)
        (folder / "set_1.csv").write_text(f"video_name,label\n{rows}")
    single = tmp_path / "single.txt"
    single.write_text("/far/away/00001 16 0\n/far/away/00002 16 1\n")

    def listed(data: str, root: Path, fold: int = 1, lists: Path | None = None) -> dict[str, str]:
        return DataChoice(data, root, fold, lists).listed()

    assert listed("folder", tmp_path / "divided") == {
        "train/fear/1": "train",
        "test/fear/2": "test",
        "val/anger/3": "val",
    }
    assert listed("folder", tmp_path / "whole") == {"fear/1": "train"}
    assert listed("csv", table) == {"x": "train", "y": "test", "z": "val"}
    assert listed("csv", table, 2) == {"x": "test", "z": "val"}
    assert listed("dfew", dfew) == {"00001": "train", "00002": "train", "00003": "test"}
    assert listed("dfew", dfew, 1, single) == {"00001": "train", "00002": "train"}
    assert DataChoice().listed() == {}


def test_drawn_people_tell_what_moves_without_naming_it() -> None:
    from dfer.train.data.procedural import ProceduralClips

    clips = ProceduralClips([3])
    assert list(clips.captions) == clips.names
    cleaned = clean_captions(((name, [text]) for name, text in clips.captions.items()), EXPRESSIONS)
    assert (cleaned.dropped, cleaned.emptied) == (0, 0)
    assert {name: text for name, (text,) in cleaned.texts.items()} == clips.captions
    assert "lip corners are pulled up" in clips.captions["3/happiness"]
    assert np.unique(list(clips.captions.values())).size == 7
