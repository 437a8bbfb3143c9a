"""Training called from Python: what the command does, typed, with its result."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from dfer.export.exporting import export_checkpoint
from dfer.export.options import trained_window
from dfer.runtime import Recognizer
from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.cli.eval import main as evaluate
from dfer.train.cli.train import main as train
from dfer.train.confidence import Confidence
from dfer.train.data.choice import DataChoice
from dfer.train.epoch_log import EpochLog
from dfer.train.evaluation import open_model
from dfer.train.models.clip import load_clip, save_weights
from dfer.train.options import TrainOptions
from dfer.train.run import run_training
from dfer.train.training import Epoch, Trainer
from helpers import write_video


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """A few epochs of Align-DFER on clips of one frame each, in one step."""
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    for label in ("happiness", "sadness", "fear"):
        for number in range(20):
            clip = folder / "faces" / label / str(number)
            clip.mkdir(parents=True)
            cv2.imwrite(str(clip / "0.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return TrainOptions(
        out=folder / "model.pt",
        data=DataChoice("folder", folder / "faces", workers=1),
        method_options={"tokens": 2, "single_step": True},
        clip="dfer-nano",
        epochs=(1, 1, 1),
        depth=(1, 1, 1),
        validation=0.5,
        views=0,
        batch=16,
    )


def test_a_run_from_python_is_the_commands_run(options: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_training(options)
    assert result.checkpoint == options.out
    (best,) = result.steps
    assert (best.step, best.epochs) == ("single", 3)
    assert not capsys.readouterr().out
    confidence = load_checkpoint(options.out)[0].confidence
    assert result.calibration is not None and confidence == result.calibration.confidence != Confidence()
    assert load_checkpoint(options.out.with_suffix(".step-single.pt"))[0].confidence == confidence
    log = options.out.with_suffix(".jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert best.to_json() in lines

    assert options.data.root is not None
    call = [options.out.with_name("other.pt"), "--data", "folder", "--root", options.data.root, "--workers", 1]
    call += ["--clip", "dfer-nano", "--tokens", 2, "--single-step", "--epochs", "1,1,1", "--depth", "1,1,1"]
    call += ["--validation", 0.5, "--views", 0, "--batch", 16]
    printed = CliRunner().invoke(train, [str(argument) for argument in call], catch_exceptions=False)
    assert printed.exit_code == 0, printed.output
    assert options.out.with_name("other.jsonl").read_text() == log.read_text()

    finished = options.out.with_name("other.pt").stat().st_mtime_ns
    resumed = CliRunner().invoke(train, [*map(str, call), "--resume"], catch_exceptions=False).output
    assert options.out.with_name("other.pt").stat().st_mtime_ns == finished
    assert "nothing to resume" in resumed and "wrote" not in resumed and "replaced" not in resumed
    assert "replaced" not in printed.output
    anew = CliRunner().invoke(train, list(map(str, call)), catch_exceptions=False).output
    assert "other.pt is there from an earlier run and will be replaced" in anew.replace("\n", " ")

    again = run_training(replace(options, resume=True))
    assert again == result  # it is finished; what it came to is read from the checkpoint
    for changes, words in (
        ({"method": "dfer-clip", "method_options": {}}, "model.pt is of align-dfer; name another file"),
        ({"epochs": (2, 1, 1), "batch": 8}, r"model.pt was made with other settings \(plan, batch\)"),
        ({"precision": "bf16"}, r"model.pt was made with other settings \(precision\)"),
    ):
        with pytest.raises(ParameterError, match=f"resume: .*{words}"):
            run_training(replace(options, resume=True, **changes))  # type: ignore[arg-type]


def test_resume_with_nothing_to_resume_keeps_no_lines_of_another_run(options: TrainOptions, tmp_path: Path) -> None:
    run_training(replace(options, out=tmp_path / "one.pt"))
    lines = (tmp_path / "one.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(lines.replace('"loss": ', '"loss": 9'))
    run_training(replace(options, out=tmp_path / "other.pt", resume=True))
    assert (tmp_path / "other.jsonl").read_text() == lines


def test_a_log_is_told_of_every_epoch_when_it_ends(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bars are not drawn, as in a file; and of a step when that is over, not at the end of all."""
    log, seen = StringIO(), []
    write = Trainer._write_state

    def read(trainer: Trainer, phase: int, epoch: int) -> None:
        seen.append(log.getvalue())
        write(trainer, phase, epoch)

    monkeypatch.setattr(Trainer, "_write_state", read)
    steps = replace(options, out=tmp_path / "log.pt", method_options={"tokens": 2}, epochs=(2, 1, 1))
    run_training(steps, Console(file=log))
    for number, told in enumerate(seen):
        assert told.count("\nepoch ") == number + 1
    assert "\nepoch 2 of 2: 1-text, loss" in seen[1]
    assert "\nstep 1-text: best epoch" not in seen[1]
    assert "\nstep 1-text: best epoch" in seen[2] and "step 2-video" not in seen[2]
    assert "so it is not chosen" not in log.getvalue()


def test_epochs_before_a_steps_last_layer_say_that_they_are_not_chosen(options: TrainOptions, tmp_path: Path) -> None:
    log = StringIO()
    steps = replace(options, out=tmp_path / "grown.pt", method_options={"tokens": 2}, epochs=(1, 4, 1), depth=(1, 2, 1))
    (_, best, _) = run_training(steps, Console(file=log)).steps
    lines = [line for line in log.getvalue().splitlines() if line.startswith("epoch ") and ": 2-video, " in line]
    assert ["layers are still to be added, so it is not chosen" in line for line in lines] == [True, True, False, False]
    assert best.number > 2


def test_frames_reach_a_model_of_large_crops_as_they_are(options: TrainOptions, tmp_path: Path) -> None:
    """Not by way of 128 px, which would only blur them: in training and in the test."""
    rng, films = np.random.default_rng(1), []
    for label in ("fear", "sadness"):
        for number in range(2):
            (clip := tmp_path / "faces" / label / str(number)).mkdir(parents=True)
            films.append(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8))
            cv2.imwrite(str(clip / "0.png"), cv2.cvtColor(films[-1], cv2.COLOR_RGB2BGR))
    data, out = DataChoice("folder", tmp_path / "faces", workers=1), tmp_path / "m.pt"
    run_training(replace(options, out=out, data=data, crop=160, validation=0.5))
    frames = np.repeat(np.stack(films)[:, None], 16, axis=1)
    (stored,) = tmp_path.glob("features/*/features.npy")
    method = load_checkpoint(out)[0]
    with torch.inference_mode():
        seen = method.encode_frames(torch.from_numpy(frames[:, 0])).numpy()
    np.testing.assert_allclose(np.load(stored)[0, :, 0], seen, atol=2e-3)

    told = ["--data", "folder", "--root", str(tmp_path / "faces"), "--json", str(tmp_path / "m.json")]
    CliRunner().invoke(evaluate, [str(out), *told], catch_exceptions=False)
    with open_model(out) as model:
        highest = [model.classify(frames[index]).max() for index in range(4)]
    scored = json.loads((tmp_path / "m.json").read_text())
    right, wrong = (scored["confidence"][name] or 0 for name in ("right", "wrong"))
    assert scored["war"] * right + (1 - scored["war"]) * wrong == pytest.approx(np.mean(highest), rel=1e-5)


def test_an_interrupted_run_is_not_gone_on_from_with_other_options(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("one.pt", "other.pt")):
        torch.manual_seed(seed)
        save_weights(load_clip("dfer-nano"), tmp_path / name)
    words = tmp_path / "words.json"
    words.write_text(json.dumps(dict.fromkeys(EXPRESSIONS, "a face")))
    method_options = {"no_mat": True, "single_step": True, "descriptions": words}
    begun = replace(
        options, out=tmp_path / "m.pt", pretrained=str(tmp_path / "one.pt"), method_options=method_options, resume=True
    )

    def stop(log: EpochLog, epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLog, "write", stop)
        run_training(begun)
    for name, value, named in (
        ("pretrained", str(tmp_path / "other.pt"), "pretrained"),
        ("validation", 0.4, "validation, division"),
    ):
        with pytest.raises(ParameterError, match=rf"other settings \({named}\)"):
            run_training(replace(begun, **{name: value}))  # type: ignore[arg-type]
    told = words.read_text()
    words.write_text(told.replace("a face", "a person"))
    with pytest.raises(ParameterError, match=r"other settings \(options\)"):
        run_training(begun)
    words.write_text(told)
    assert run_training(begun).steps[0].epochs == 3


def test_runs_with_numbers_in_their_names_share_no_file(options: TrainOptions, tmp_path: Path) -> None:
    for name in ("run.1.pt", "run.2.pt"):
        run_training(replace(options, out=tmp_path / name, features=tmp_path))
    for kind in ("pt", "jsonl", "last.pt", "step-single.pt"):
        assert {path.name for path in tmp_path.glob(f"run.?.{kind}")} == {f"run.1.{kind}", f"run.2.{kind}"}


def test_errors_name_parameters(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a 1 0\n")
    one_list, listed = DataChoice("dfew", tmp_path, lists=tmp_path / "one.txt"), DataChoice("csv", tmp_path)
    for changes, words in (
        ({"out": tmp_path / "no" / "x.pt"}, "out: folder .* does not exist"),
        ({"out": tmp_path / "run.1"}, r"out: .*run\.1: the name must end in \.pt; run\.1\.pt would do"),
        ({"stills": tmp_path / "x.csv", "select_on_test": True}, "select_on_test: photographs have no test split"),
        ({"select_on_test": True}, "select_on_test: .*faces has no folders train, val or test; make some"),
        ({"validation_split": "val"}, "validation_split: .*faces has no folders train, val or test; make some"),
        (
            {"validation_split": "Train"},
            "validation_split: Train is trained on, so epochs cannot be chosen on it; name an",
        ),
        ({"validation_split": "training", "data": listed}, "validation_split: training is trained on"),
        ({"validation_split": "val", "select_on_test": True}, "validation_split: .* on the test split; leave one out"),
        ({"validation_split": "val", "data": listed}, "validation: has no effect with validation_split, which names"),
        ({"data": listed, "select_on_test": True}, "validation: has no effect with select_on_test, which names"),
        ({"augmentation": "strong"}, "augmentation: has no effect without augmented views; add some"),
        ({"data": one_list, "select_on_test": True}, "select_on_test: .*one.txt is one list, of no split"),
        ({"data": DataChoice("mafw")}, "root: data mafw needs the folder that holds its clips"),
        ({"data": DataChoice(root=tmp_path)}, "root: has no effect with data procedural; name a data set, such as"),
        ({"data": DataChoice(lists=tmp_path)}, "lists: has no effect with data procedural"),
        ({"data": DataChoice(fold=2)}, "fold: has no effect with data procedural"),
        ({"epochs": (1, 2)}, "epochs: this method takes 3 numbers"),
        ({"method": "x"}, "method: 'x' is not one of align-dfer"),
        ({"method_options": {"tokens": 0}}, "tokens: 0: a sentence needs at least one"),
        ({"stills_share": 0.2}, "stills_share: has no effect without stills"),
        ({"stills_most": 9}, "stills_most: has no effect without stills"),
        ({"caption_weight": 2.0}, "caption_weight: has no effect without captions"),
        ({"middle_weight": 2.0}, "middle_weight: has no effect without middle"),
        ({"method_options": {"tokens": 2, "no_mat": True}}, "tokens: are MAT's, which no_mat takes out"),
        ({"method_options": {"no_jas": True}}, "depth: is for JAS, which no_jas takes out"),
        ({"method_options": {"no_jas": True, "single_step": True}}, "single_step: is for JAS"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
    ):
        with pytest.raises(ParameterError, match=words):
            run_training(replace(options, **changes))  # type: ignore[arg-type]


def test_a_few_clips_calibrate_nothing_and_one_class_is_no_model(options: TrainOptions, tmp_path: Path) -> None:
    out, told = tmp_path / "few.pt", Console(file=StringIO())
    assert run_training(replace(options, out=out, validation=0.2), told).calibration is None
    assert load_checkpoint(out)[0].confidence == Confidence()
    assert "not calibrated, since fewer than 30 clips were held back" in told.file.getvalue()  # type: ignore[attr-defined]

    assert options.data.root is not None
    shutil.copytree(options.data.root / "fear", tmp_path / "faces" / "pain")
    data, out = DataChoice("folder", tmp_path / "faces", workers=1), tmp_path / "one.pt"
    with pytest.raises(DferError, match="all clips to train on show pain; a model needs two classes at least"):
        run_training(replace(options, out=out, data=data))
    assert not out.exists()


@pytest.mark.long
def test_classes_of_ones_own_from_training_to_rows(options: TrainOptions, tmp_path: Path) -> None:
    """Labels that are none of ours become the model's classes; they are counted, and hardly any clips are warned of."""
    names = ("bored", "engaged", "pain")
    assert options.data.root is not None
    for name, like in zip(names, sorted(options.data.root.iterdir()), strict=True):
        shutil.copytree(like, tmp_path / "faces" / name)
    shutil.copytree(tmp_path / "faces" / "pain" / "0", tmp_path / "faces" / "yawn" / "0")
    data = ["--data", "folder", "--root", tmp_path / "faces", "--workers", 1]
    call = [tmp_path / "own.pt", *data, "--clip", "dfer-nano", "--tokens", 2, "--single-step", "--epochs", "1,1,1"]
    call += ["--depth", "1,1,1", "--validation", 0.5, "--views", 0, "--batch", 16]
    printed = CliRunner().invoke(train, [str(argument) for argument in call], catch_exceptions=False)
    assert printed.exit_code == 0, printed.output
    assert "bored 10+10, engaged 10+10, pain 10+10, yawn 1+0" in printed.output
    assert "only one of the clips to train on shows yawn" in printed.output
    assert "calibrated on 30 clips: temperature" in printed.output

    told = CliRunner().invoke(evaluate, [str(tmp_path / "own.pt"), *map(str, data)], catch_exceptions=False)
    assert "these may be the clips the model learned from" in " ".join(told.output.split())
    assert "before calibration)" in told.output

    bundle = export_checkpoint(tmp_path / "own.pt", tmp_path / "own.dfer").bundle
    assert bundle.manifest.classes == (*names, "yawn")
    with Recognizer(bundle.path, provider="cpu") as recognizer:
        (prediction,) = recognizer.predict_crops(np.zeros((1, 64, 64, 3), np.uint8), [0.0])
    assert prediction.classes == (*names, "yawn")

    call = [tmp_path / "clip.pt", *data, "--method", "dfer-clip", "--clip", "dfer-nano", "--validation", 0.25]
    refused = CliRunner().invoke(train, [str(argument) for argument in call])
    assert refused.exit_code == 1
    assert "--descriptions: there are none of bored, engaged, pain, yawn; name a file" in refused.output


def test_the_last_epoch_is_written_as_it_was_scored(options: TrainOptions, tmp_path: Path) -> None:
    chosen = {"method": "dfer-clip", "method_options": {"freeze_image_encoder": True}, "epochs": (1,), "depth": (1,)}
    run_training(replace(options, out=tmp_path / "mean.pt", ema=0.9, batch=4, **chosen))  # type: ignore[arg-type]
    best = load_checkpoint(tmp_path / "mean.step-fine-tuning.pt")[0].state_dict()
    last = load_checkpoint(tmp_path / "mean.last.pt")[0].state_dict()
    assert all(torch.equal(value, last[name]) for name, value in best.items())  # there is but one epoch


def test_windows_are_drawn_as_the_run_is_told(options: TrainOptions, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("happiness", "sadness", "fear"):
        for number in range(4):
            clip = tmp_path / "clips" / label / str(number)
            clip.mkdir(parents=True)
            for frame in range(16):
                cv2.imwrite(str(clip / f"{frame:02}.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    own = replace(options, out=tmp_path / "own.pt", data=DataChoice("folder", tmp_path / "clips", workers=1), batch=4)
    losses = set()
    for windows in (own, replace(own, span=0.5), replace(own, history=1.0)):
        run_training(windows)
        losses.add((tmp_path / "own.jsonl").read_text().splitlines()[0])
    assert len(losses) == 3  # all else being the same


def test_a_bundle_reads_as_much_video_as_the_training_clips_had(options: TrainOptions, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("happiness", "sadness", "fear"):
        (tmp_path / "films" / label).mkdir(parents=True)
        for number, frames in enumerate((27, 27, 27, 90)):  # at 30 frames a second, so most have 0.9 s
            film = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(frames)]
            write_video(tmp_path / "films" / label / f"{number}.mp4", film, 30)

    out = tmp_path / "films.pt"
    run_training(replace(options, out=out, data=DataChoice("folder", tmp_path / "films", workers=1), span=0.5))
    # Training windows covered half of a clip of 0.9 s, up to all of it; the longer clips are the fewer.
    assert trained_window(load_checkpoint(out)[1]) == 0.7
