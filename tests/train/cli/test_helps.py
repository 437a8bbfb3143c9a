"""Help: it comes at once, and every option says what it is for in words that stand alone."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from dfer.train.cli import distill, prepare, pretrain, train
from dfer.train.cli import eval as evaluate
from dfer.train.models.clip import _open_clip
from dfer.train.models.tags import check_activation

COMMANDS = [prepare.main, pretrain.main, train.main, distill.main, evaluate.main]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_explained(command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and len(option.help.split()) >= 4, option.name
            assert not option.help.startswith(("Of ", "Per ", "Its ")), option.name


@pytest.mark.parametrize("name", ["prepare", "pretrain", "train", "distill", "eval"])
def test_help_loads_nothing_heavy(name: str) -> None:
    program = f"import sys; from dfer.train.cli.{name} import main; main(standalone_mode=False); print(*sys.modules)"
    call = [sys.executable, "-c", program, "--help"]
    printed = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert "Usage" in printed
    assert not {"torch", "cv2", "numpy", "onnxruntime", "rich", "matplotlib"} & set(printed.split())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_models_of_examples_go_with_the_weights_beside_them(command: click.Command) -> None:
    open_clip = _open_clip()
    for name, tag in re.findall(r"--clip (\S+) --pretrained (\w+)(?= )", command.epilog or ""):
        assert open_clip.get_pretrained_cfg(name, tag), tag
        check_activation(open_clip, name, tag)
