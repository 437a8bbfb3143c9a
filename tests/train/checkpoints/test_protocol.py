"""Protocols: what a test shows follows from what the model learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfer.runtime.errors import DferError
from dfer.train.checkpoints.protocol import KEY, Division, LearnedFrom, divisions_of, learned_from
from dfer.train.data.choice import DataChoice
from dfer.train.models.clip import DEMO_WEIGHTS, load_clip
from dfer.train.options import TrainOptions

LEAK = "not zero-shot: captions and test come from dfew"


@pytest.mark.parametrize(
    ("learned", "protocol"),
    [
        (LearnedFrom(), "zero-shot"),
        (LearnedFrom(captions=("mafw",), folds=(("mafw", 2),)), "zero-shot"),
        (LearnedFrom(captions=("DFEW",)), LEAK),
        (LearnedFrom(captions=("mafw",), encoder="faces.pt"), "not zero-shot: labels taught its encoder expressions"),
        (LearnedFrom(labels=("mafw",), captions=("mafw",)), "cross-data"),
        (LearnedFrom(labels=("mafw", "faces/labels.csv")), "cross-data"),
        (
            LearnedFrom(labels=("procedural",), encoder="faces.pt"),
            "cross-data; labels taught its encoder expressions (faces.pt)",
        ),
        (LearnedFrom(labels=("dfew",), folds=(("dfew", 1),)), "supervised"),
        (LearnedFrom(labels=("dfew",), captions=("dfew",)), f"supervised; {LEAK}"),
        (LearnedFrom(labels=("dfew",), folds=(("dfew", 3),)), "not held out: trained on fold 3 of dfew"),
    ],
)
def test_a_test_on_dfew_is(learned: LearnedFrom, protocol: str) -> None:
    found = learned.protocol("dfew", 1)
    assert found == protocol or (learned.encoder is not None and found.startswith(protocol))
    assert LearnedFrom.of_training({KEY: learned.to_json()}) == learned


CHOSEN = "supervised; epochs chosen and calibrated on this split"
SEEN = "not held out: trained on these clips"


@pytest.mark.parametrize(
    ("trained_on", "chosen_on", "tested_on", "protocol"),
    [
        ("train", "test", "test", CHOSEN),
        ("train", "val", "val", CHOSEN),
        ("train", "val", "test", "supervised"),
        ("train", None, "val", "supervised"),
        ("train", "test", "train", SEEN),
        ("train", None, None, SEEN),  # the same folder, no longer divided
        (None, None, "test", SEEN),  # divided since
        ("a.txt", None, "a.txt", SEEN),
        ("a.txt", None, "b.txt", "supervised"),
    ],
)
def test_what_a_test_shows_depends_on_what_was_trained_and_chosen_on(
    trained_on: str | None, chosen_on: str | None, tested_on: str | None, protocol: str
) -> None:
    division = Division("dfew", 1, trained_on, chosen_on, 0.1, 0)
    learned = LearnedFrom(("dfew",), folds=(("dfew", 1),), divisions=(division,))
    assert learned.protocol("DFEW", 1, tested_on) == protocol
    assert LearnedFrom.of_training({KEY: learned.to_json()}) == learned
    told = learned.to_json()
    del told["divisions"]  # as earlier versions wrote it
    old = LearnedFrom.of_training({KEY: told})
    assert old is not None and old.divisions == ()
    assert old.protocol("dfew", 1, tested_on) == (SEEN if tested_on in ("train", None) else "supervised")


def test_how_a_set_was_divided_is_known_of_one_way_of_the_same_part_only() -> None:
    own, was = Division("dfew", 1, "train", None, 0.1, 0), Division("DFEW", 1, "train", "test", 0.2, 5, trained="abc")
    others = Division("mafw", 1, "train", None, 0.3, 7)
    for learned, wanted in (
        (LearnedFrom(("mafw",), divisions=(others,)), own),
        (LearnedFrom(("dfew", "mafw"), divisions=(others, was)), was),
        (LearnedFrom(("dfew",)), None),
        (LearnedFrom((), ("dfew",)), None),
        (LearnedFrom(("dfew",), divisions=(was, own)), None),
        (LearnedFrom(("dfew",), divisions=(replace(was, fold=2),)), None),
        (LearnedFrom(("dfew",), divisions=(replace(was, part="a.txt"),)), None),
    ):
        assert learned.division_of(own) == wanted


def test_a_run_says_how_it_divides_its_clips_and_photographs(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "faces" / split).mkdir(parents=True)
    folder, benchmark = DataChoice("folder", tmp_path / "faces"), DataChoice("dfew", tmp_path, 2)
    table, out = tmp_path / "labels.csv", tmp_path / "x.pt"
    one_list = DataChoice("dfew", lists=tmp_path / "a.txt")
    clip_s = DataChoice("dfew", lists=tmp_path / "DFEW_set_1_test.txt")
    for listed in (one_list, clip_s):
        assert listed.lists is not None
        listed.lists.write_text("")
    for options, wanted in (
        (TrainOptions(out, folder, seed=3), [("faces", None, "train", None)]),
        (TrainOptions(out, folder, validation_split="val"), [("faces", None, "train", "val")]),
        (TrainOptions(out, benchmark, select_on_test=True), [("dfew", 2, "train", "test")]),
        (TrainOptions(out, one_list), [("dfew", 1, f"{tmp_path.name}/a.txt", None)]),
        (TrainOptions(out, clip_s), [("dfew", 1, "test", None)]),
        (TrainOptions(out, DataChoice("folder", tmp_path / "faces" / "val")), [("val", None, None, None)]),
        (
            TrainOptions(out, stills=table, validation_split="val"),
            [("procedural", None, "train", None), (f"{tmp_path.name}/labels.csv", None, "train", "val")],
        ),
    ):
        found = divisions_of(options)
        assert [(one.name, one.fold, one.part, one.chosen_on) for one in found] == wanted
        assert {(one.share, one.seed) for one in found} == {(0.1, options.seed)}


def test_a_model_that_does_not_say_is_not_believed() -> None:
    for training in (None, {}, {"name": "dfew, fold 1"}, "dfew"):
        assert LearnedFrom.of_training(training) is None
    plain: dict[str, Any] = {"labels": [], "captions": [], "folds": [], "encoder": None}
    for record in ([], {"labels": 3}, plain | {"folds": [3]}, plain | {"divisions": [{"name": "dfew"}]}):
        with pytest.raises(DferError, match="record of its training cannot be read"):
            LearnedFrom.of_training({KEY: record})


def test_runs_are_recorded_by_names_of_sets(tmp_path: Path) -> None:
    (tmp_path / "Faces").mkdir()
    table = tmp_path / "Faces" / "labels.csv"
    table.write_text("")
    for choice, name in (
        (DataChoice(), "procedural"),
        (DataChoice("mafw", tmp_path, 4), "mafw"),
        (DataChoice("folder", tmp_path / "Faces"), "Faces"),
        (DataChoice("csv", table, 4), "Faces"),
    ):
        options = TrainOptions(tmp_path / "x.pt", choice, stills=table, captions="drawn")
        folds = ((name, 4),) if choice.fold == 4 else ()
        assert learned_from(options, True, ()) == LearnedFrom((name, "Faces/labels.csv"), (name,), folds)
    plain = TrainOptions(tmp_path / "x.pt", pretrained=str(DEMO_WEIGHTS))
    taught = load_clip("dfer-small", str(DEMO_WEIGHTS)).taught
    assert learned_from(plain, False, (), taught).encoder == DEMO_WEIGHTS.name
    assert learned_from(plain, False, divisions_of(plain), load_clip("dfer-nano").taught) == LearnedFrom()


def test_a_student_learned_what_its_teacher_did_and_what_it_was_tuned_on() -> None:
    teacher = LearnedFrom(("dfew",), ("dfew",), (("dfew", 1),), "faces.pt")
    assert LearnedFrom.of_training({"distillation": {"teacher": {KEY: teacher.to_json()}}}) == teacher
    assert LearnedFrom.of_training({"distillation": {"teacher": {"trained_on": "dfew"}}}) is None
    tuned = teacher.and_of(LearnedFrom(("dfew", "mafw"), (), (("dfew", 2), ("mafw", 1))))
    assert LearnedFrom.of_training({KEY: tuned.to_json()}) == tuned
    assert tuned.labels == ("dfew", "mafw")
    assert tuned.protocol("dfew", 1).startswith("not held out: trained on fold 2 of dfew")
