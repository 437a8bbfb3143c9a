"""A new method is one file: found by name, built from its own options, trained, evaluated and exported as ours are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import outside_method
import pytest
import torch
from click.testing import CliRunner
from outside_method import MeanPool
from torch import nn

from dfer.export.exporting import export_checkpoint
from dfer.runtime import Bundle
from dfer.runtime.errors import DferError, ParameterError
from dfer.train.checkpoints.checkpoint import load_checkpoint
from dfer.train.cli.eval import main as evaluate
from dfer.train.cli.train import main as train_command
from dfer.train.data.batches import FeatureBatches
from dfer.train.data.features import FeatureSet
from dfer.train.fabric import start_fabric
from dfer.train.methods import method_class, method_names
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.method import build_method
from dfer.train.models.clip import Clip, load_clip
from dfer.train.training import Trainer, TrainSettings

Train = Callable[..., str]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of single frames: happiness is bright with fine grain, sadness dark and even."""
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for label, grain in (("happiness", 250), ("sadness", 10)):
        for number in range(8):
            frame = rng.integers(0, grain, (48, 48, 3)).astype(np.uint8)
            (root / label / str(number)).mkdir(parents=True)
            cv2.imwrite(str(root / label / str(number) / "0.png"), frame)
    return root


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`dfer-train` where the package with the outside method is installed; gives what it prints."""
    outside_method.install(tmp_path)
    outside_method.HEARD.clear()
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(train_command, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_help_lists_a_method_of_another_package_and_loads_none(tmp_path: Path) -> None:
    outside_method.install(tmp_path)
    program = "import sys; from dfer.train.cli.train import main; main(standalone_mode=False); print(*sys.modules)"
    call = [sys.executable, "-c", program, "--help"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    printed = subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout
    assert "[align-dfer|dfer-clip|finecliper|zero-shot|mean-pool]" in "".join(printed.split())
    assert not {"torch", "numpy", "cv2", "outside_method"} & set(printed.split())


@pytest.mark.long
def test_it_is_trained_evaluated_and_exported_as_ours_are(train: Train, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean.pt"
    data = ["--data", "folder", "--root", faces, "--workers", 1]
    train(out, "--method", "mean-pool", "--clip", "dfer-nano", "--batch", 4, "--validation", 0.25, "--views", 1, *data)
    heard = outside_method.HEARD
    assert heard[0] == "optimizer"
    assert set(heard[1:]) <= {f"{label}/{number}" for label in ("happiness", "sadness") for number in range(8)}
    assert (tmp_path / "features").is_dir()

    bundle = export_checkpoint(tmp_path / "mean.last.pt", tmp_path / "mean.dfer").bundle
    assert Bundle.open(bundle.path).manifest.method == "mean-pool"
    confusions = []
    for model in (out, tmp_path / "mean.step-only.pt", tmp_path / "mean.last.pt", bundle.path):
        call = [model, *data, "--json", tmp_path / "scores.json"]
        result = CliRunner().invoke(evaluate, [str(argument) for argument in call], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        confusions.append(json.loads((tmp_path / "scores.json").read_text())["confusion"])
    assert confusions[0] == confusions[1]
    assert confusions[2] == confusions[3]
    assert confusions[0][0][0] == confusions[0][1][1] == 8  # it has learned the two


def test_an_adapter_in_the_image_encoder_is_trained_on_pixels(train: Train, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted.pt"
    call = ["--method", "mean-pool", "--option", "adapter=true", "--clip", "dfer-nano", "--batch", 4, "--epochs", 1]
    train(out, *call, "--validation", 0.25, "--data", "folder", "--root", faces)
    method, training = load_checkpoint(out)
    assert isinstance(method, MeanPool) and method.adapter is not None
    assert method.adapter.linear.weight.abs().max() > 0  # it began as zeros
    assert training["options"] == {"adapter": True}
    assert not (tmp_path / "features").exists()


def test_a_method_that_forgets_its_adapter_is_not_trained_on_stale_features(clip: Clip, tmp_path: Path) -> None:
    class Forgetful(MeanPool):
        @property
        def image_encoder(self) -> nn.Module:
            encoder: nn.Module = self.clip_model.visual
            return encoder

    method = Forgetful(clip, ("a", "b"), adapter=True)
    phases = method.phases(method.default_plan)
    assert not method.trains_encoder(phases)
    features = FeatureSet(np.zeros((1, 4, 16, 64), np.float16), np.arange(4), np.array([0, 1, 0, 1]), list("abcd"))
    batches, fabric = FeatureBatches([(features, 1.0)]), start_fabric("fp32")
    trainer = Trainer(method, phases, batches, batches, TrainSettings(), fabric, tmp_path / "state", {})
    with pytest.raises(DferError, match="step only of mean-pool trains what its features depend on"):
        trainer.run(False)


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return load_clip("dfer-nano")


def test_names_are_known_and_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert method_names() == ["align-dfer", "dfer-clip", "finecliper", "zero-shot"]
    with pytest.raises(ParameterError, match=r"method: 'mean-pool' is not one of align-dfer, .*, zero-shot"):
        method_class("mean-pool")
    outside_method.install(tmp_path, ["mean-pool", "align-dfer"])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert method_names() == ["align-dfer", "dfer-clip", "finecliper", "zero-shot", "mean-pool"]
    assert method_class("mean-pool") is MeanPool
    assert method_class("align-dfer") is AlignDfer  # another package cannot take our names
    entries = tmp_path / "mean_pool-1.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text().replace("outside_method", "absent_module"))
    with pytest.raises(DferError, match="method mean-pool: cannot load absent_module:MeanPool"):
        method_class("mean-pool")


def test_a_method_refuses_options_that_are_not_its_own(clip: Clip) -> None:
    with pytest.raises(ParameterError, match="width: not an option of mean-pool, which has adapter"):
        build_method(MeanPool, clip, ("a",), MeanPool.default_plan, {"width": 3})
    with pytest.raises(ParameterError, match="adapter: not an option of align-dfer, which has tokens, no_mat"):
        build_method(AlignDfer, clip, ("a",), AlignDfer.default_plan, {"adapter": True})
    with pytest.raises(ParameterError, match="descriptions: align-dfer's tokens are wordless"):
        build_method(AlignDfer, clip, ("a",), AlignDfer.default_plan, {"descriptions": Path("x.json")})


def test_methods_without_published_checkpoints_say_so() -> None:
    with pytest.raises(DferError, match="no published checkpoints of align-dfer can be read"):
        AlignDfer.load_published(Path("x.pt"))


def test_an_option_with_a_name_of_its_own_is_refused_among_the_others(tmp_path: Path) -> None:
    for setting, words in (
        ("captions=x.jsonl", "--captions: is an option of its own"),
        ("middle=distil", "--middle: is an option of its own"),
        ("caption-weight=0.5", "--caption-weight: is an option of its own"),
        ("no_mat=true", "give --no-mat itself, which is an option of its own"),
    ):
        call = [str(tmp_path / "x.pt"), "--method", "finecliper", "--option", setting]
        result = CliRunner().invoke(train_command, call, catch_exceptions=False)
        assert result.exit_code and words in result.output, result.output


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("no_temporal=False", "'False' is not true or false"),
        ("no_negatives=off", "'off' is not true or false"),
        ("checkpointing=1", "1 is not true or false"),
        ("ratio=1/4", "'1/4' is not a number"),
        ("adapter_scale=true", "True is not a number"),
        ("adapter=2", "2 is not a text"),
    ],
)
def test_an_option_of_another_kind_is_refused_and_not_taken_for_yes(tmp_path: Path, setting: str, words: str) -> None:
    call = [str(tmp_path / "x.pt"), "--method", "finecliper", "--option", setting]
    result = CliRunner().invoke(train_command, call, catch_exceptions=False)
    assert (result.exit_code, f"{setting.partition('=')[0]}: {words}" in result.output) == (1, True), result.output
