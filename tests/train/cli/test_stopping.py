"""Ctrl-C in a command that works for long: one line says how to go on."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dfer.runtime.cli.label import main as label
from dfer.train.cli.distill import main as distill
from dfer.train.cli.pretrain import main as pretrain
from dfer.train.cli.train import main as train

LOADING = ImportError("initialization failed")  # as a native module says it
LOADING.__cause__ = KeyboardInterrupt()
RESUME = "the same command with --resume goes on from the last "


@pytest.mark.parametrize("why", [KeyboardInterrupt(), LOADING], ids=["working", "loading"])
@pytest.mark.parametrize(
    ("command", "work", "arguments", "told"),
    [
        (train, "dfer.train.run.run_training", ["out.pt"], f"{RESUME}whole epoch"),
        (
            distill,
            "dfer.train.distillation.run.distill",
            ["in.pt", "out.pt", "--tower", "x", "--faces", "."],
            f"{RESUME}whole epoch",
        ),
        (pretrain, "dfer.train.pretraining.Pretraining", ["out.pt", "--clip", "dfer-nano"], f"{RESUME}step"),
        (label, "dfer.runtime.cli.corpus.label.label", ["in.mp4", "out"], "the same command goes on from here"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(
    command: click.Command,
    work: str,
    arguments: list[str],
    told: str,
    why: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise why

    monkeypatch.chdir(tmp_path)
    Path("in.pt").touch()
    monkeypatch.setattr(work, interrupted)
    if command is pretrain:
        arguments = [*arguments, "--identities", "1", "--workers", "1"]
    stopped = CliRunner().invoke(command, arguments)
    assert stopped.exit_code == 1
    assert f"Error: stopped; {told}" in stopped.stderr
    assert "Aborted" not in stopped.stderr
