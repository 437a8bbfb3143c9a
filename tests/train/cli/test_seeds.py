"""`--seed` of the training commands."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dfer.train.cli import distill, pretrain, train

LAST = 2**63 - 1


@pytest.mark.parametrize("command", [train.main, pretrain.main, distill.main])
@pytest.mark.parametrize("seed", [-1, LAST + 1])
def test_a_seed_that_is_no_seed_is_refused(command: click.Command, seed: int, tmp_path: Path) -> None:
    refused = CliRunner().invoke(command, [str(tmp_path / "x.pt"), "--seed", str(seed)])
    assert refused.exit_code == 2
    assert f"Invalid value for '--seed': {seed} is not in the range 0<=x<={LAST}" in refused.output


def test_the_last_seed_is_one() -> None:
    torch.manual_seed(LAST)
    np.random.default_rng([LAST, 0])
