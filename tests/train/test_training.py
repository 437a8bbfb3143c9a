"""Training through the commands: it learns, CLIP stays as it was, checkpoint and bundle agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dfer.train.checkpoint import load_checkpoint
from dfer.train.clip import load_clip
from dfer.train.eval_command import main as evaluate
from helpers import Pipeline


@pytest.fixture(scope="module")
def scores(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """`dfer-eval --json` of the checkpoint and of its bundle, on people not trained on."""
    folder = tmp_path_factory.mktemp("scores")
    results = {}
    for name, arguments in {
        "checkpoint": [pipeline.checkpoint],
        "bundle": [pipeline.bundle],
    }.items():
        out = folder / f"{name}.json"
        call = [*map(str, arguments), "--identities", "10", "--workers", "1", "--json", str(out)]
        result = CliRunner().invoke(evaluate, call, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "WAR" in result.output
        results[name] = json.loads(out.read_text())
    return results


def test_the_tiny_model_learns_expressions_of_people_it_never_saw(scores: dict[str, dict[str, float]]) -> None:
    assert scores["checkpoint"]["war"] > 0.5  # chance is 1/7


def test_checkpoint_and_bundle_score_the_same(scores: dict[str, dict[str, float]]) -> None:
    assert scores["checkpoint"]["confusion"] == scores["bundle"]["confusion"]


def test_clip_is_bit_identical_after_training(pipeline: Pipeline) -> None:
    method, _ = load_checkpoint(pipeline.checkpoint)
    before = load_clip("dfer-nano", str(pipeline.weights)).model.state_dict()
    after = method.get_submodule("clip_model").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_commands_refuse_bad_input_in_one_line(pipeline: Pipeline, tmp_path: Path) -> None:
    from dfer.train.pretrain_command import main as pretrain
    from dfer.train.train_command import main as train

    calls = [
        (train, [tmp_path / "no" / "x.pt"], "does not exist"),
        (train, [tmp_path / "x.pt", "--clip", "ViT-Z"], "unknown CLIP"),
        (train, [tmp_path / "x.pt", "--clip", "dfer-nano", "--stills", tmp_path / "no.csv"], "no.csv"),
        (pretrain, [tmp_path / "no" / "x.pt"], "does not exist"),
        (pretrain, [tmp_path / "x.pt", "--clip", "dfer-nano", "--stills", tmp_path / "no.csv"], "no.csv"),
        (evaluate, [tmp_path / "absent.pt"], "no such file"),
        (evaluate, [tmp_path], "no manifest.json"),
    ]
    for command, arguments, words in calls:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert result.exit_code == 1, (command.name, result.output)
        assert words in result.output
        assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "x.pt").exists()
