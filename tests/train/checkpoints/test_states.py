"""What an interrupted run left is gone on from with the same settings only; what differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfer.runtime.errors import ParameterError
from dfer.train.checkpoints.states import read_state

FORMAT = "dfer-edge training state 9"


def test_settings_that_one_run_alone_has_are_named(tmp_path: Path) -> None:
    state = tmp_path / "fine.state"
    torch.save({"format": FORMAT, "identity": {"batch": 8, "captions": {"weight": 0.5}}, "epoch": 3}, state)
    assert read_state(state, FORMAT, {"batch": 8, "captions": {"weight": 0.5}})["epoch"] == 3
    for identity, names in (
        ({"batch": 8}, "captions"),
        ({"batch": 4, "captions": {"weight": 0.5}, "middle": {"weight": 1.0}}, "batch, middle"),
    ):
        with pytest.raises(
            ParameterError, match=rf"fine\.state was begun with other settings \({names}\); give the same"
        ):
            read_state(state, FORMAT, identity)
    assert read_state(state, FORMAT, {"batch": 8, "captions": {"weight": 0.5}, "middle": None})["epoch"] == 3


def test_another_precision_is_refused_where_the_state_names_one(tmp_path: Path) -> None:
    state = tmp_path / "fine.state"
    for identity in ({"batch": 8}, {"batch": 8, "precision": "bf16"}):
        torch.save({"format": FORMAT, "identity": identity, "epoch": 3}, state)
        assert read_state(state, FORMAT, {"batch": 8, "precision": "bf16"})["epoch"] == 3
    with pytest.raises(ParameterError, match=r"other settings \(precision\)"):
        read_state(state, FORMAT, {"batch": 8, "precision": "fp32"})


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "x.state"
    torch.save({"format": "dfer-edge training state 8"}, other)
    with pytest.raises(ParameterError, match=r"x\.state is not a training state of this version, or train without it"):
        read_state(other, FORMAT, {})
