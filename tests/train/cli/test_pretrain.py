"""`dfer-pretrain`: what it does with its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from dfer.train.cli.pretrain import main
from dfer.train.models.clip import load_clip, save_weights
from dfer.train.pretraining import PretrainSettings


def test_grey_is_refused_where_weights_of_a_colour_model_overrule_it(tmp_path: Path) -> None:
    save_weights(load_clip("dfer-nano"), tmp_path / "colour.pt")
    call = [tmp_path / "out.pt", "--clip", "dfer-nano", "--pretrained", tmp_path / "colour.pt", "--grey"]
    refused = CliRunner().invoke(main, [str(argument) for argument in call])
    assert refused.exit_code == 1
    assert "--grey: the model of" in refused.output and "sees colour" in " ".join(refused.output.split())


def test_weights_need_a_name_that_no_other_run_shares_its_state_with(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, [str(tmp_path / "faces.1"), "--clip", "dfer-nano"])
    assert refused.exit_code == 1
    assert "faces.1: the name must end in .pt, .safetensors; faces.1.pt would do" in refused.output


def test_options_reach_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Stop(Exception):
        pass

    def pretraining(*arguments: Any) -> None:
        given.extend(arguments)
        raise Stop

    monkeypatch.setattr("dfer.train.pretraining.Pretraining", pretraining)
    save_weights(load_clip("dfer-vit"), tmp_path / "teacher.pt")
    call = [tmp_path / "out.pt", "--clip", "dfer-nano", "--identities", 1, "--workers", 1, "--grey", "--balance", 0.25]
    call += ["--learning-rate", 0.001, "--seed", 3, "--steps", 12, "--batch", 10, "--compile"]
    call += ["--teacher", tmp_path / "teacher.pt", "--teacher-clip", "dfer-vit"]
    assert isinstance(CliRunner().invoke(main, [str(argument) for argument in call]).exception, Stop)
    clip, _, settings, teacher, state, compiled = given
    assert settings == PretrainSettings(steps=12, batch=10, learning_rate=0.001, balance=0.25, seed=3)
    assert (clip.preprocessing.grey, teacher.name, state, compiled) == (True, "dfer-vit", tmp_path / "out.state", True)
    torch.manual_seed(3)
    begun = zip(clip.model.parameters(), load_clip("dfer-nano").model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in begun)


def test_resuming_a_finished_run_leaves_its_result_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    save_weights(load_clip("dfer-nano"), out)  # as a run does when it ends; its state is gone then
    made = out.read_bytes()
    call = [out, "--clip", "dfer-nano", "--identities", 1, "--workers", 1, "--steps", 10, "--batch", 4, "--resume"]
    again = CliRunner().invoke(main, [str(argument) for argument in call])
    assert (again.exit_code, again.output) == (0, f"{out} is finished; there is nothing to resume\n")
    assert out.read_bytes() == made
