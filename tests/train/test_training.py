"""Training through the commands: it learns, CLIP stays as it was, checkpoint and bundle agree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import CliRunner

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.cli.eval import main as evaluate
from dfer.train.methods.bap import STEPS
from dfer.train.models.clip import load_clip, save_weights
from helpers import Pipeline


@pytest.fixture(scope="module")
def scores(pipeline: Pipeline, people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """`dfer-eval --json` of the checkpoint and of its bundle, on people not trained on."""
    folder = tmp_path_factory.mktemp("scores")
    results = {}
    for name, model in {"checkpoint": pipeline.checkpoint, "bundle": pipeline.bundle}.items():
        out = folder / f"{name}.json"
        call = [str(model), "--data", "folder", "--root", str(people), "--json", str(out)]
        call += ["--plot", str(folder / "checkpoint.png")] if name == "checkpoint" else []
        result = CliRunner().invoke(evaluate, call, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "WAR" in result.output
        results[name] = json.loads(out.read_text())
    return results


def test_the_model_learns_expressions_of_people_it_never_saw(scores: dict[str, dict[str, float]]) -> None:
    assert scores["checkpoint"]["war"] > 3 / 7  # three times what chance gives


def test_checkpoint_and_bundle_score_the_same(scores: dict[str, dict[str, float]]) -> None:
    assert scores["checkpoint"]["confusion"] == scores["bundle"]["confusion"]


def test_every_step_of_the_run_is_kept_and_told_about(pipeline: Pipeline) -> None:
    folder = pipeline.checkpoint.parent
    lines = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == 3 * list(range(1, 7))
    for step in STEPS:
        method, training = load_checkpoint(folder / f"tiny.step-{step}.pt")
        assert training["scores"][-1]["step"] == step
        assert f"step {step}: best epoch" in pipeline.printed
    assert training["scores"][-1]["war"] == max(line["war"] for line in lines if line["step"] == STEPS[2])
    assert not (folder / "tiny.state").exists()
    assert load_checkpoint(folder / "tiny.last.pt")[0].classes == EXPRESSIONS
    whole = pipeline.checkpoint.stat().st_size
    parts = {path.name: path.stat().st_size for path in folder.glob("tiny.*.pt")}
    assert len(parts) == 4
    assert max(parts.values()) < 0.1 * whole  # CLIP is in one file only
    for (name, last), kept in zip(
        method.state_dict().items(), load_checkpoint(pipeline.checkpoint)[0].state_dict().values(), strict=True
    ):
        assert torch.equal(last, kept), name


def test_five_folds_are_averaged(pipeline: Pipeline, people: Path, tmp_path: Path) -> None:
    for fold in range(1, 6):
        shutil.copy(pipeline.checkpoint, tmp_path / f"f{fold}.pt")
    out = tmp_path / "folds.json"
    table = tmp_path / "labels.csv"
    rows = [f"{people / label / '0'},{label},test,{fold}" for label in EXPRESSIONS for fold in range(1, 6)]
    table.write_text("\n".join(["clip,label,split,fold", *rows]))
    call = [tmp_path / "f{fold}.pt", "--data", "csv", "--root", table, "--json", out]
    result = CliRunner().invoke(evaluate, [str(argument) for argument in call], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    wars = [fold["war"] for fold in json.loads(out.read_text())]
    assert len(wars) == 5
    assert f"mean of 5 folds   WAR {sum(wars) / 5:.4f}" in result.output


def test_the_confusion_matrix_is_drawn(
    scores: dict[str, dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (plot,) = tmp_path_factory.getbasetemp().glob("scores[0-9]*/checkpoint.png")
    picture = cv2.imread(str(plot))
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 20


@pytest.mark.parametrize("frozen", [False, True])
def test_dfer_clip_trains_its_image_encoder_unless_that_is_frozen(people: Path, tmp_path: Path, frozen: bool) -> None:
    from dfer.train.cli.train import main as train

    out, weights = tmp_path / "clip.pt", tmp_path / "nano.pt"
    save_weights(load_clip("dfer-nano"), weights)
    call = [out, "--method", "dfer-clip", "--clip", "dfer-nano", "--pretrained", weights, "--crop", 112]
    call += ["--data", "folder", "--root", people, "--validation", 0.34, "--batch", 8, "--epochs", 1]
    call += ["--freeze-image-encoder", "--views", 0] if frozen else []
    result = CliRunner().invoke(train, [str(argument) for argument in call], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    method, _ = load_checkpoint(out)
    for option in [] if frozen else [["--views", 0], ["--features", tmp_path]]:
        refused = CliRunner().invoke(train, [str(argument) for argument in (*call, *option)]).output
        assert f"{option[0]}: is for methods with a frozen image encoder" in refused
    before = load_clip("dfer-nano", str(weights)).model.state_dict()
    after = method.get_submodule("clip_model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith("visual.") for name in changed)
    assert bool(changed) is not frozen
    assert (tmp_path / "features").exists() is frozen


@pytest.mark.long
def test_two_processes_train_together(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "two.pt"
    call = [out, "--pretrained", "demo", "--tokens", 2]
    call += ["--data", "folder", "--root", people]
    call += ["--validation", 0.34, "--views", 0, "--epochs", "1,1,1", "--depth", "1,1,1", "--workers", 1]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "dfer.train.cli.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, start + call)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" is ready;") == 1
    lines = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(STEPS)
    assert load_checkpoint(out)[0].classes == EXPRESSIONS


def test_epochs_can_be_chosen_on_the_test_split_but_not_quietly(tmp_path: Path) -> None:
    from dfer.train.cli.train import main as train

    call = [tmp_path / "x.pt", "--pretrained", "demo", "--tokens", 2, "--no-jas"]
    call += ["--identities", 1, "--views", 0, "--epochs", "1,1,1", "--workers", 1, "--select-on-test"]
    result = CliRunner().invoke(train, [str(argument) for argument in call], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "chosen on the test split: these figures are no test results" in " ".join(result.output.split())


def test_clip_is_bit_identical_after_training(pipeline: Pipeline) -> None:
    method, _ = load_checkpoint(pipeline.checkpoint)
    before = load_clip("dfer-small", str(pipeline.weights)).model.state_dict()
    after = method.get_submodule("clip_model").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_commands_refuse_bad_input_in_one_line(pipeline: Pipeline, tmp_path: Path) -> None:
    from dfer.train.cli.pretrain import main as pretrain
    from dfer.train.cli.train import main as train

    calls = [
        (train, [tmp_path / "no" / "x.pt"], "does not exist"),
        (train, [tmp_path / "x.pt", "--clip", "ViT-Z"], "unknown CLIP"),
        (train, [tmp_path / "x.pt", "--data", "dfew"], "--root: data dfew needs the folder"),
        (train, [tmp_path / "x.pt", "--data", "mafw", "--root", tmp_path], "MAFW_set_1_train.txt"),
        (
            train,
            [tmp_path / "x.pt", "--method", "dfer-clip", "--no-mat"],
            "--no-mat: not an option of dfer-clip",
        ),
        (train, [tmp_path / "x.pt", "--clip", "dfer-nano", "--epochs", "1,2"], "takes 3 numbers"),
        (evaluate, [pipeline.checkpoint, "--json", tmp_path / "no" / "x.json"], "does not exist"),
        (
            train,
            [tmp_path / "x.pt", "--clip", "dfer-nano", "--stills", tmp_path / "no.csv"],
            "no.csv",
        ),
        (pretrain, [tmp_path / "no" / "x.pt"], "does not exist"),
        (pretrain, [tmp_path / "x.pt", "--teacher-clip", "dfer-nano"], "--teacher-clip: is the kind of --teacher"),
        (
            pretrain,
            [tmp_path / "x.pt", "--clip", "dfer-nano", "--stills", tmp_path / "no.csv"],
            "no.csv",
        ),
        (evaluate, [tmp_path / "absent.pt"], "no such file"),
        (evaluate, [tmp_path], "no manifest.json"),
    ]
    for command, arguments, words in calls:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert result.exit_code == 1, (command.name, result.output)
        assert words in result.output
        assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "x.pt").exists()
