"""`dfer-pretrain`: what it does with its options."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from dfer.train.cli.pretrain import main
from dfer.train.models.clip import load_clip, save_weights


def test_grey_is_refused_where_weights_of_a_colour_model_overrule_it(tmp_path: Path) -> None:
    save_weights(load_clip("dfer-nano"), tmp_path / "colour.pt")
    call = [tmp_path / "out.pt", "--clip", "dfer-nano", "--pretrained", tmp_path / "colour.pt", "--grey"]
    refused = CliRunner().invoke(main, [str(argument) for argument in call])
    assert refused.exit_code == 1
    assert "--grey: the model of" in refused.output and "sees colour" in " ".join(refused.output.split())
