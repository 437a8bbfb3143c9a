"""Distillation, as the command does it: from a tiny teacher to an exported student, stopped, resumed, and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from networks import random_crops
from outside_method import MeanPool
from published_dfer_clip import IMAGE, WINDOW, random_state, save_published
from rich.console import Console

from dfer.export.exporting import export_checkpoint
from dfer.export.options import trained_window
from dfer.runtime import Recognizer
from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.checkpoints.protocol import KEY, Division, LearnedFrom
from dfer.train.cli.distill import main
from dfer.train.cli.eval import main as evaluate
from dfer.train.confidence import Confidence
from dfer.train.data import CLIP_SECONDS
from dfer.train.data.batches import Source
from dfer.train.data.choice import DRAWN, DataChoice
from dfer.train.data.procedural import HELD_OUT
from dfer.train.distillation.options import DistillOptions
from dfer.train.distillation.run import distill
from dfer.train.epoch_log import EpochLog
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.models.clip import load_clip
from dfer.train.options import TrainOptions
from dfer.train.run import Run, run_training


class Stop(Exception):
    pass


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


@pytest.mark.long
def test_a_student_learns_is_tuned_evaluated_exported_and_run(folder: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "student.pt", ["--data", "folder", "--root", folder / "faces", "--workers", 1]
    call = [folder / "teacher.pt", out, "--tower", "test_resnet", "--faces", folder / "faces", "--image-size", 32]
    call += ["--views", 1, "--held-back", 0.2, "--epochs", 8, "--learning-rate", 0.005, "--batch", 14]
    call += ["--features", folder / "features", "--tune-epochs", 3, "--tensorboard", tmp_path / "curves"]
    printed = run(*call, *data)
    assert printed.exit_code == 0, printed.output
    for words in ("faces as the teacher takes them: happiness", "the teacher: WAR", "its head tuned: WAR"):
        assert words in printed.output
    assert list((tmp_path / "curves").iterdir())

    lines = log_of(out)
    assert [line["step"] for line in lines] == ["distillation"] * 8 + ["tuning"] * 3
    assert max(line["war"] for line in lines[:8]) >= 3 / len(EXPRESSIONS)
    assert lines[7]["cosine"] > lines[0]["cosine"]
    student, training = load_checkpoint(out)
    assert not any(name.startswith("clip_model") for name in student.state_dict())  # no text side
    told = training["distillation"]
    assert told["agreement"] == max(line["war"] for line in lines[:8])
    assert told["teacher_recalls"]["war"] > 0.8
    assert training["scores"][-1]["step"] == "tuning"

    scored = CliRunner().invoke(evaluate, [str(out), *map(str, data)], catch_exceptions=False)
    assert "WAR" in scored.output
    assert "protocol: not held out: trained on these clips; labels of patterns, faces; tested on faces" in scored.output
    bundle = export_checkpoint(out, tmp_path / "student.dfer").bundle
    assert bundle.manifest.provenance["training"]["distillation"]["teacher"]["file"] == "teacher.pt"
    assert bundle.manifest.preprocessing.size == 32
    with Recognizer(bundle.path, provider="cpu") as recognizer:
        (prediction,) = recognizer.predict_crops(random_crops(1, 64), [0.0])
    assert prediction.classes == EXPRESSIONS


@pytest.mark.parametrize("labelled", [True, False])
def test_a_head_that_stays_the_teachers_is_told(folder: Path, tmp_path: Path, labelled: bool) -> None:
    call = [folder / "teacher.pt", tmp_path / "s.pt", "--tower", "test_resnet", "--faces", folder / "faces"]
    call += ["--image-size", 32, "--views", 1, "--epochs", 1, "--batch", 14, "--features", folder / "features"]
    data = ["--data", "folder", "--root", folder / "faces", "--workers", 1, "--no-tune-head"]
    printed = run(*call, *(data if labelled else [])).output
    kept = "the head, temperature and limit stay the teacher's, fitted to its own features"
    assert f"{'head not tuned' if labelled else 'no labelled clips'}: {kept}" in printed
    assert ("the loss in WAR and UAR is unknown (--data measures it)" in printed) != labelled


@pytest.mark.parametrize("told", [True, False])
def test_clips_that_the_teacher_held_back_are_held_back(
    options: DistillOptions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """By the teacher's seed and share; where it does not tell these, that is said, and nothing is calibrated anew."""
    opened: list[tuple[set[str], set[str]]] = []
    open_data = Run.open_data

    def opening(run: Run, size: int) -> list[Source]:
        (source,) = sources = open_data(run, size)
        names = np.array(source.clips.names)
        opened.append((set(names[source.training]), set(names[source.validation])))
        return sources

    monkeypatch.setattr(Run, "open_data", opening)
    faces, path, log = DataChoice("folder", folder / "faces", workers=1), tmp_path / "teacher.pt", StringIO()
    plain = TrainOptions(path, faces, clip="dfer-nano", method_options={"tokens": 2, "single_step": True})
    run_training(replace(plain, epochs=(1, 1, 1), depth=(1, 1, 1), views=0, validation=0.5, seed=1))
    teacher, training = load_checkpoint(path)
    assert teacher.confidence != Confidence()
    if not told:  # as an earlier version
        del training[KEY]["divisions"]
        save_checkpoint(teacher, path, training, teacher.confidence)
    result = distill(replace(options, teacher=path, labelled=faces, epochs=1, tune_epochs=1), Console(file=log))
    (learned, _), (_, tested) = opened
    student, training = load_checkpoint(result.checkpoint)
    assert (not learned & tested) == result.unseen == told
    assert ("may have been trained on clips that are held back here" in log.getvalue()) != told
    assert (student.confidence == teacher.confidence) != told
    assert (result.calibration is not None) == told
    assert len(training[KEY]["divisions"]) == 1
    assert (training["validation"], training[KEY]["divisions"][0]["seed"]) == ((0.5, 1) if told else (0.1, 0))


def test_a_test_split_that_chose_the_teachers_epochs_is_told(
    options: DistillOptions, folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.copytree(folder / "faces", tmp_path / "divided" / split)
    data, log = DataChoice("folder", tmp_path / "divided", workers=1), StringIO()
    clips = data.open("train")
    digest = Source(clips, 1.0, np.arange(len(clips)), np.arange(0)).names_digest
    learned = LearnedFrom(("divided",), divisions=(Division("divided", None, "train", "test", 0.1, 0, trained=digest),))
    save_checkpoint(load_checkpoint(options.teacher)[0], tmp_path / "teacher.pt", {KEY: learned.to_json()})
    options = replace(options, teacher=tmp_path / "teacher.pt", labelled=data, tune_head=False, epochs=1)
    assert distill(options, Console(file=log)).unseen
    assert "clips to train on + to validate on: happiness 10+10" in log.getvalue()
    assert "warning: the test split is held back, as by the teacher" in log.getvalue()


def test_a_head_may_be_tuned_later(options: DistillOptions, folder: Path, tmp_path: Path) -> None:
    faces = DataChoice("folder", folder / "faces", workers=1)
    options = replace(options, labelled=faces, epochs=1, tune_head=False)
    stale = {"step": "distillation", "number": 1, "loss": 99.0}
    options.out.with_suffix(".jsonl").write_text(json.dumps(stale) + "\n")
    assert distill(replace(options, resume=True)).tuned is None  # there is nothing to resume yet
    assert stale not in log_of(options.out)
    options = replace(options, resume=True)
    log = StringIO()
    assert distill(options, Console(file=log)).tuned is None and "nothing to resume" in log.getvalue()
    shutil.copytree(folder / "faces" / "fear", tmp_path / "others" / "fear")
    shutil.copytree(folder / "faces" / "anger", tmp_path / "others" / "anger")
    others, log = DataChoice("folder", tmp_path / "others", workers=1), StringIO()
    distill(replace(options, labelled=others), Console(file=log))
    assert "clips to train on + to validate on: " in log.getvalue()  # measured on these, not read of the others
    options, log = replace(options, tune_head=True, tune_epochs=1), StringIO()
    tuned = distill(options, Console(file=log))
    assert tuned.tuned is not None and "nothing to resume" not in log.getvalue()
    assert [line["step"] for line in log_of(options.out)] == ["distillation", "tuning"]
    assert distill(options) == tuned
    for changes, names in (
        ({"tune_epochs": 2}, "tune_epochs"),
        ({"tune_head": False, "tune_epochs": 20}, "tune_head, tune_epochs"),
        ({"precision": "bf16"}, "precision"),
    ):
        with pytest.raises(ParameterError, match=rf"made with other settings \({names}\)"):
            distill(replace(options, **changes))  # type: ignore[arg-type]


def test_a_student_reads_windows_as_long_as_its_teachers(options: DistillOptions, folder: Path, tmp_path: Path) -> None:
    window, path = {CLIP_SECONDS: 1.2, "span": 0.5, "history": 1.0}, tmp_path / "teacher.pt"
    save_checkpoint(load_checkpoint(options.teacher)[0], path, window)
    faces = DataChoice("folder", folder / "faces", workers=1)
    plain = replace(options, teacher=path, epochs=1)
    for tuning in (plain, replace(plain, labelled=faces, tune_epochs=1, resume=True)):
        _, training = load_checkpoint(distill(tuning).checkpoint)
        assert ("scores" in training) == tuning.resume
        assert training.items() >= window.items()
        assert trained_window(training) == 0.9


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(
    options: DistillOptions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the tower's third epoch is told and not yet saved, and again with the head's second."""
    options = replace(options, labelled=DataChoice("folder", folder / "faces", workers=1), tune_epochs=3)
    whole = replace(options, out=tmp_path / "whole.pt")
    wanted = distill(whole)
    write = EpochLog.write

    def stop_at(step: str, number: int) -> None:
        def stopping(self: EpochLog, epoch: Any, **others: float) -> None:
            write(self, epoch, **others)
            if (epoch.step, epoch.number) == (step, number):
                raise Stop

        monkeypatch.setattr(EpochLog, "write", stopping)

    stop_at("distillation", 3)
    with pytest.raises(Stop):
        distill(options)
    assert options.out.with_suffix(".state").is_file()
    assert not options.out.exists()
    stop_at("tuning", 2)
    with pytest.raises(Stop):
        distill(replace(options, resume=True))
    assert options.out.is_file()
    monkeypatch.setattr(EpochLog, "write", write)
    result = distill(replace(options, resume=True))
    assert replace(result, checkpoint=whole.out) == wanted
    assert log_of(options.out) == log_of(whole.out)
    expected = load_checkpoint(whole.out)[0].state_dict()
    for name, value in load_checkpoint(options.out)[0].state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not list(tmp_path.glob("*.state"))

    assert distill(replace(options, resume=True)) == result  # finished: read, not made again
    with pytest.raises(ParameterError, match=r"made with other settings \(epochs\)"):
        distill(replace(options, resume=True, epochs=5))


def test_drawn_faces_are_of_people_whom_no_clips_show(options: DistillOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(people: range, *_: object) -> None:
        assert not set(people) & {*range(1000), *range(HELD_OUT, HELD_OUT + 1000)}
        raise Stop

    monkeypatch.setattr("dfer.train.distillation.crops.ProceduralClips", drawn)
    with pytest.raises(Stop):
        distill(replace(options, faces=DRAWN, labelled=DataChoice()))


def test_a_state_of_other_settings_is_refused(options: DistillOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: EpochLog, epoch: Any, **others: float) -> None:
        if epoch.number == 2:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "write", stop)
        with pytest.raises(Stop):
            distill(options)
    with pytest.raises(ParameterError, match=r"other settings \(balance\)"):
        distill(replace(options, resume=True, balance=1.0))


def test_a_student_teaches_as_well_and_features_are_computed_once(
    options: DistillOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, features=tmp_path / "features", epochs=2)
    first = distill(options)
    assert len(list((tmp_path / "features").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(AlignDfer, "encode_pixels", lambda *_: pytest.fail("encoded again"))
        again = distill(replace(options, out=tmp_path / "again.pt", seed=0))
    assert (again.agreement, again.cosine) == (first.agreement, first.cosine)

    grandchild = distill(replace(options, teacher=options.out, out=tmp_path / "grandchild.pt", image_size=None))
    assert len(list((tmp_path / "features").iterdir())) == 2
    _, training = load_checkpoint(grandchild.checkpoint)
    assert training["distillation"]["teacher"]["method"] == "student"
    assert training["distillation"]["image_size"] == 32


def test_a_published_checkpoint_teaches(folder: Path, tmp_path: Path) -> None:
    teacher, out = tmp_path / "DFER-CLIP.pth", tmp_path / "student.pt"
    save_published(random_state(7, True), teacher)
    call = [teacher, out, "--tower", "test_resnet", "--faces", folder / "faces", "--views", 0, "--epochs", 1]
    refused = run(*call)
    assert refused.exit_code == 1
    assert "dfer-distill read it with --method dfer-clip" in refused.output
    printed = run(*call, "--method", "dfer-clip")
    assert printed.exit_code == 0, printed.output
    student, training = load_checkpoint(out)
    assert (student.classes, student.window, student.preprocessing.size) == (EXPRESSIONS, WINDOW, IMAGE)
    assert training["distillation"]["teacher"]["method"] == "dfer-clip"
    published, _ = DferClip.load_published(teacher)
    with torch.inference_mode():
        torch.testing.assert_close(student.class_matrix(), published.class_matrix())


def test_what_cannot_be_used_is_told_in_a_line(folder: Path, tmp_path: Path) -> None:
    teacher, out, faces = folder / "teacher.pt", tmp_path / "s.pt", folder / "faces"
    untuned = (teacher, out, "--tower", "resnet18", "--faces", faces, "--data", "procedural", "--no-tune-head")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"")
    for arguments, words in (
        ((teacher, out, "--tower", "mobilenetv4_small", "--faces", faces), "mobilenetv4_conv_small"),
        ((teacher, out, "--tower", "test_vit", "--faces", faces, "--image-size", 50), "--image-size: test_vit"),
        ((teacher, out, "--tower", "resnet18", "--faces", tmp_path / "films"), "dfer-prepare"),
        ((teacher, out, "--tower", "resnet18", "--faces", tmp_path / "no"), "--faces: "),
        ((teacher, teacher, "--tower", "resnet18", "--faces", faces), "STUDENT: "),
        (
            (teacher, out, "--tower", "resnet18", "--faces", faces, "--root", faces),
            "--root: has no effect with data none",
        ),
        ((teacher, out, "--tower", "resnet18", "--faces", faces, "--fold", 2), "--fold: has no effect with data none"),
        ((teacher, out, "--tower", "resnet18", "--faces", faces, "--identities", 9), "--identities: has no effect"),
        ((teacher, out, "--tower", "resnet18", "--faces", faces, "--tune-epochs", 9), "--tune-epochs: has no effect"),
        (
            (teacher, out, "--tower", "resnet18", "--faces", faces, "--stills-share", 0.9),
            "--stills-share: has no",
        ),
        ((teacher, out, "--tower", "resnet18", "--faces", faces, "--no-tune-head"), "--tune-head: a head is tuned"),
        ((*untuned, "--tune-epochs", 9), "--tune-epochs: has no effect without tuning the head"),
        ((*untuned, "--stills", "no.csv", "--stills-share", 0.9), "--stills-share: has no effect without tuning"),
        ((teacher, out, "--tower", "resnet18", "--faces", faces, "--data", "csv"), "--root: data csv needs the folder"),
        ((tmp_path / "no.pt", out, "--tower", "resnet18", "--faces", faces), "no such file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert words in result.output
        assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1
    assert not out.exists()


def test_a_method_that_pools_otherwise_cannot_teach(folder: Path, options: DistillOptions, tmp_path: Path) -> None:
    from dfer.train.methods import METHODS

    teacher = MeanPool(load_clip("dfer-nano"), EXPRESSIONS)
    save_checkpoint(teacher, tmp_path / "mean.pt", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "mean-pool", "outside_method:MeanPool")
        with pytest.raises(DferError, match="mean-pool has no temporal part that a student can take over"):
            distill(replace(options, teacher=tmp_path / "mean.pt"))
