"""Captions in training: they reach the loss, the adapters and the record, and neither checkpoint nor bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from clip_sets import NoiseClips
from networks import SIZE, random_crops
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dfer.runtime.errors import ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.captions.contrast import CaptionTokens, contrast
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.cli.train import main as train
from dfer.train.data import Batch
from dfer.train.data.batches import PixelBatches, Sampling
from dfer.train.fabric import start_fabric
from dfer.train.methods.finecliper import FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.models.adapters import run_adapted
from dfer.train.models.clip import Clip, ClipSizes, build_clip
from dfer.train.options import TrainOptions
from dfer.train.run import run_training
from dfer.train.training import Trainer, TrainSettings

PLAN = Plan((1,), (1e-3,), (1,))
TEXTS = {str(n): (f"the {part} moves", f"the {part} is still") for n, part in enumerate(["brow", "jaw", "lid", "nose"])}
FROZEN = {"adapter": "none", "no_text_adapters": True}


def tiny_clip() -> Clip:
    torch.manual_seed(0)
    return build_clip(ClipSizes(64, SIZE, 8, 64, 1, 77, 49408, 64, 1))


def make(**options: Any) -> FineCliper:
    clip = tiny_clip()
    options.setdefault("captions", CaptionTokens(clip, TEXTS))
    return FineCliper.from_options(clip, EXPRESSIONS, PLAN, **options)


def disturb(method: FineCliper) -> FineCliper:
    """Adapters as after training: no longer zero."""
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if ".up." in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return method


def batch() -> Batch:
    inputs = torch.from_numpy(np.stack([random_crops(4, seed=n) for n in range(5)])).repeat(1, 4, 1, 1, 1)
    return Batch(inputs, torch.tensor([0, 1, 2, 0, 3]), ["0", "x", "1", "2", "3"])


def by_the_tower(method: FineCliper, text: str) -> torch.Tensor:
    """CLIP's own way from a text to its feature, with the adapters of captions in its blocks."""
    clip, adapters = method._clip, method.caption_adapters
    tokens = clip.tokenize([text])
    if not len(adapters):
        return functional.normalize(clip.model.encode_text(tokens), dim=-1)  # type: ignore[operator]
    tower: Any = clip.text.model
    embedded = tower.token_embedding(tokens) + tower.positional_embedding
    hidden = tower.ln_final(run_adapted(tower.transformer.resblocks, adapters, embedded, tower.attn_mask))
    return functional.normalize(hidden[:, tokens.argmax()] @ tower.text_projection, dim=-1)


@pytest.mark.parametrize("options", [{}, FROZEN])
def test_caption_features_are_the_text_towers(options: dict[str, Any]) -> None:
    method = disturb(make(**options)).eval()
    with torch.no_grad():
        found = method.encode_captions(torch.arange(8))
        wanted = torch.cat([by_the_tower(method, text) for texts in TEXTS.values() for text in texts])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, FROZEN, {"caption_weight": 2.0}])
def test_the_loss_is_the_classes_plus_the_captions_of_those_that_have_some(options: dict[str, Any]) -> None:
    method = make(**options).eval()
    plain = make(**{**options, "captions": None}).eval()
    plain.load_state_dict(method.finished_state())
    given, tokens = batch(), CaptionTokens(method._clip, TEXTS)
    for _ in range(2):  # the second time from features that were kept, where they are
        with torch.no_grad():
            torch.manual_seed(7)
            found = method.loss(given, None, None)
            torch.manual_seed(7)
            _, captions = tokens.draw(given.names)
            video = method.pool(method.encode_clips(given.inputs))[[0, 2, 3, 4]]
            told = contrast(video, method.encode_captions(captions), given.labels[[0, 2, 3, 4]], 100.0)
            wanted = plain.loss(given, None, None) + options.get("caption_weight", 0.5) * told
        assert told > 0
        torch.testing.assert_close(found, wanted)
        without = Batch(given.inputs, given.labels, ["x"] * 5)
        torch.testing.assert_close(method.loss(without, None, None), plain.loss(without, None, None))


def test_several_processes_need_not_all_have_captions_in_a_batch(tmp_path: Path) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = make()

        def forward(self, names: list[str]) -> torch.Tensor:
            given = batch()
            return self.method.loss(Batch(given.inputs, given.labels, names), None, None)

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        loss = DistributedDataParallel(Loss())
        for names in (["x"] * 5, ["0"] * 5, ["x"] * 5):
            loss(names).backward()  # of what went without a gradient the next step would complain
    finally:
        distributed.destroy_process_group()


def test_adapters_learn_from_captions() -> None:
    method = disturb(make()).train()
    _, captions = CaptionTokens(method._clip, TEXTS).draw(["0", "1", "2", "3"])
    video = method.pool(method.encode_clips(batch().inputs))[:4]
    contrast(video, method.encode_captions(captions), torch.arange(4), method.scale).backward()
    learned = {name for name, value in method.named_parameters() if value.grad is not None and value.grad.any()}
    for part in ("image_adapters.0.serial.down", "image_adapters.0.parallel.up", "caption_adapters.0", "temporal"):
        assert any(name.startswith(part) for name in learned), part
    assert not any(name.startswith("text_adapters") for name in learned)


def test_training_with_captions_leaves_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    method, clips = make(), NoiseClips(14)
    sampling = Sampling(batch=7)
    training = PixelBatches([(clips, 1.0)], clips.classes, SIZE, "paper", sampling=sampling)
    phases = method.phases(PLAN)
    trainer = Trainer(method, phases, training, training, TrainSettings(), start_fabric("fp32"), tmp_path / "s", {})
    trainer.run(False)
    (epoch,) = trainer.results
    assert np.isfinite(epoch.loss)
    plain = make(captions=None)
    assert method.finished_state().keys() == plain.state_dict().keys()
    assert method.config() == plain.config()
    save_checkpoint(method, tmp_path / "fine.pt", {})
    again, _ = load_checkpoint(tmp_path / "fine.pt")
    torch.testing.assert_close(again.class_matrix(), method.eval().class_matrix())


def test_a_weight_must_count() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match=r"caption_weight: .* must be positive"):
            make(caption_weight=weight)


def call(out: Path, *arguments: object) -> Result:
    basic = ["--method", "finecliper", "--clip", "dfer-nano", "--option", "adapter=none", "--epochs", 1, "--workers", 1]
    basic += ["--views", 0, "--batch", 7, "--validation", 0.5]
    return CliRunner().invoke(train, [str(argument) for argument in (out, *basic, *arguments)])


def test_drawn_captions_train_from_the_command_and_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "fine.pt"
    result = call(out, "--identities", 2, "--captions", "drawn", "--caption-weight", 0.25)
    assert result.exit_code == 0, result.output
    assert "captions: 7 of 7 clips to train on have one, 0 have none; 0 clauses" in result.output
    _, training = load_checkpoint(out)
    assert training["captions"]["weight"] == 0.25
    assert len(training["captions"]["sha256"]) == 64
    assert b"lip corners" not in out.read_bytes()
    without = call(out, "--identities", 2, "--resume")
    assert without.exit_code == 1
    assert "was made with other settings (captions); give the same ones" in without.output


def test_captions_where_none_belong_are_refused(tmp_path: Path) -> None:
    faces, captions = tmp_path / "faces", tmp_path / "captions.jsonl"
    for clip in ("train/fear/1", "train/fear/2", "train/anger/3", "train/anger/4", "test/fear/5"):
        (faces / clip).mkdir(parents=True)
        cv2.imwrite(str(faces / clip / "0.png"), np.full((48, 48, 3), 90, np.uint8))
    data = ["--data", "folder", "--root", faces, "--captions"]
    for clip, words in (
        ("test/fear/5", "captions.jsonl, line 1: clip 'test/fear/5' is of the split test"),
        ("fear/1", "captions.jsonl, line 1: clip 'fear/1' is not among the clips of these data"),
    ):
        captions.write_text(json.dumps({"clip": clip, "text": "lips part"}) + "\n")
        result = call(tmp_path / "x.pt", *data, captions)
        assert result.exit_code == 1
        assert words in result.output
    captions.write_text(json.dumps({"clip": "train/fear/1", "text": "joy"}) + "\n")
    assert "clips to train on has one; 1 clauses" in call(tmp_path / "x.pt", *data, captions).output
    assert "--captions: only procedural people have drawn ones" in call(tmp_path / "x.pt", *data, "drawn").output
    options = TrainOptions(tmp_path / "x.pt", captions="drawn", method="align-dfer")
    with pytest.raises(ParameterError, match="captions: not an option of align-dfer"):
        run_training(options)
    assert not (tmp_path / "x.pt").exists()
    told = [{"clip": f"train/{clip}", "text": "lips part; joy"} for clip in ("fear/1", "fear/2", "anger/3", "anger/4")]
    captions.write_text("".join(json.dumps(line) + "\n" for line in told))
    result = call(tmp_path / "x.pt", *data, captions)
    assert result.exit_code == 0, result.output
    assert "captions: 2 of 2 clips to train on have one, 0 have none; 4 clauses" in result.output


def test_a_clip_that_is_tested_on_may_have_no_caption(tmp_path: Path) -> None:
    for clip in ("1", "2", "3", "4"):
        (tmp_path / clip).mkdir()
        cv2.imwrite(str(tmp_path / clip / "0.png"), np.full((48, 48, 3), 90, np.uint8))
    rows = [f"{clip},{'fear' if int(clip) % 2 else 'anger'},train" for clip in "1234"]
    (tmp_path / "labels.csv").write_text("\n".join(["clip,label,split", *rows, "5,anger,test", ""]))
    (tmp_path / "captions.jsonl").write_text(json.dumps({"clip": "5", "text": "lips part"}))
    result = call(tmp_path / "x.pt", "--data", "csv", "--root", tmp_path, "--captions", tmp_path / "captions.jsonl")
    assert "line 1: clip '5' is of the split test; only training clips" in result.output
