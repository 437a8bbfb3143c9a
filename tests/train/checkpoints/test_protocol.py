"""Protocols: what a test shows follows from what the model learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfer.runtime.errors import DferError
from dfer.train.checkpoints.protocol import KEY, LearnedFrom, learned_from
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


def test_a_model_that_does_not_say_is_not_believed() -> None:
    for training in (None, {}, {"name": "dfew, fold 1"}, "dfew"):
        assert LearnedFrom.of_training(training) is None
    for record in ([], {"labels": 3}, {"labels": [], "captions": [], "folds": [3], "encoder": None}):
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
        assert learned_from(options, True) == LearnedFrom((name, "Faces/labels.csv"), (name,), folds)
    plain = TrainOptions(tmp_path / "x.pt", pretrained=str(DEMO_WEIGHTS))
    assert learned_from(plain, False, load_clip("dfer-small", str(DEMO_WEIGHTS)).taught).encoder == DEMO_WEIGHTS.name
    assert learned_from(plain, False, load_clip("dfer-nano").taught) == LearnedFrom()


def test_a_student_learned_what_its_teacher_did_and_what_it_was_tuned_on() -> None:
    teacher = LearnedFrom(("dfew",), ("dfew",), (("dfew", 1),), "faces.pt")
    assert LearnedFrom.of_training({"distillation": {"teacher": {KEY: teacher.to_json()}}}) == teacher
    assert LearnedFrom.of_training({"distillation": {"teacher": {"trained_on": "dfew"}}}) is None
    tuned = teacher.and_of(LearnedFrom(("dfew", "mafw"), (), (("dfew", 2), ("mafw", 1))))
    assert LearnedFrom.of_training({KEY: tuned.to_json()}) == tuned
    assert tuned.labels == ("dfew", "mafw")
    assert tuned.protocol("dfew", 1).startswith("not held out: trained on fold 2 of dfew")
