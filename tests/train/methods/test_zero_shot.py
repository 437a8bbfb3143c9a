"""Zero-shot: class texts as mean of unit vectors, training by captions without a label, and that it exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from networks import SIZE, random_crops
from torch.nn import functional

from dfer.export import command as export_command
from dfer.export.exporting import export_checkpoint
from dfer.runtime.bundle import Bundle
from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.captions.contrast import CaptionTokens
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.cli.train import main as train
from dfer.train.data import Batch
from dfer.train.evaluation import open_model
from dfer.train.methods.phases import Plan
from dfer.train.methods.zero_shot import TEMPLATES, ZeroShot
from dfer.train.models.clip import Clip, ClipSizes, build_clip
from dfer.train.models.descriptions import load_descriptions

PLAN = Plan((2,), (1e-3,), (2,))
TEXTS = {"0": ("the brow rises", "the lids open"), "1": ("the jaw drops",), "2": ("the lips part",)}
BASIC = ["--method", "zero-shot", "--clip", "dfer-nano", "--workers", "1"]
SMALL = ["--views", "0", "--batch", "4"]


def tiny_clip() -> Clip:
    torch.manual_seed(0)
    return build_clip(ClipSizes(64, SIZE, 8, 64, 1, 77, 49408, 64, 1))


def make(told: bool = False, **options: Any) -> ZeroShot:
    clip = tiny_clip()
    captions = CaptionTokens(clip, TEXTS) if told else None
    return ZeroShot.from_options(clip, EXPRESSIONS, PLAN, captions=captions, **options).eval()


def by_the_tower(*texts: str) -> torch.Tensor:
    clip = tiny_clip()
    with torch.no_grad():
        return functional.normalize(clip.model.encode_text(clip.tokenize(list(texts))), dim=-1)  # type: ignore[operator]


def call(out: Path, *arguments: object) -> Result:
    small = SMALL if "--captions" in arguments else []
    return CliRunner().invoke(train, [str(argument) for argument in (out, *BASIC, *small, *arguments)])


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips of one frame each in folders that say nothing of what they show, and captions of ten."""
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "clips" / f"film{number % 3}" / str(number)
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "0.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    parts = ["brow", "jaw", "lid", "nose", "chin", "cheek", "lip", "head", "gaze", "temple"]
    lines = [{"clip": f"film{n % 3}/{n}", "text": f"the {part} moves"} for n, part in enumerate(parts)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "clips"


def test_a_class_is_the_mean_of_its_texts_unit_vectors_not_normalised_again(tmp_path: Path) -> None:
    method = make()
    for row, name in zip(method.class_matrix(), EXPRESSIONS, strict=True):
        wanted = by_the_tower(*(one.format(name) for one in TEMPLATES)).mean(dim=0)
        torch.testing.assert_close(row, wanted, atol=1e-6, rtol=0)
        assert row.norm() < 0.9999
    own = tmp_path / "own.json"
    own.write_text(json.dumps({name: [one.format(name) for one in TEMPLATES] for name in EXPRESSIONS}))
    before = method.class_matrix()
    method.describe_classes(load_descriptions(own))
    torch.testing.assert_close(method.class_matrix(), before, atol=1e-6, rtol=0)
    own.write_text(json.dumps({"pain": {"positive": "a face in pain", "negative": "no pain"}, "calm": "a calm face"}))
    with pytest.raises(DferError, match="zero-shot has no negatives, but pain is given some"):
        method.describe_classes(load_descriptions(own))


def test_untrained_it_is_plain_clip() -> None:
    frames = torch.from_numpy(random_crops(16))
    clip = tiny_clip()
    for told in (False, True):  # the temporal part begins as the mean over time, but for a small positional embedding
        method = make(told)
        with torch.no_grad():
            pixels = frames.permute(0, 3, 1, 2).float() / 255
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (clip.preprocessing.mean, clip.preprocessing.std))
            features = functional.normalize(clip.model.encode_image((pixels - mean) / std), dim=-1)  # type: ignore[operator]
            video = functional.normalize(features.mean(dim=0), dim=-1)
            found = method.pool(method.encode_frames(frames)[None])[0]
        assert found @ video > (0.99 if told else 1 - 1e-6)
    assert make().phases(PLAN) == []


def test_the_loss_is_infonce_of_clips_and_captions_and_reads_no_label() -> None:
    method = make(True)
    inputs = functional.normalize(torch.randn(4, 16, 64, generator=torch.Generator().manual_seed(1)), dim=-1)
    names = ["1", "2", "1", "0"]  # one was drawn twice: it is no negative of itself
    losses = []
    for labels in (torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.int64)):
        torch.manual_seed(5)
        with torch.no_grad():
            losses.append(float(method.loss(Batch(inputs, labels, names), None, None)))
    assert losses[0] == losses[1]
    torch.manual_seed(5)
    drawn = [int(torch.randint(len(TEXTS[name]), ())) for name in names]
    with torch.no_grad():
        texts = by_the_tower(*(TEXTS[name][one] for name, one in zip(names, drawn, strict=True)))
        similarities = (100 * method.pool(inputs) @ texts.T).double().numpy()
    for a, b in ((0, 2), (2, 0)):
        similarities[a, b] = -np.inf
    sides = [*enumerate(similarities), *enumerate(similarities.T)]
    terms = [row[own] - np.log(np.exp(row).sum()) for own, row in sides]
    assert abs(losses[0] + np.mean(terms)) < 1e-3


def test_clips_without_labels_train_it_and_labels_change_nothing(clips: Path) -> None:
    """A folder without classes and a table without labels; then the same clips in a table with labels, two ways."""
    captions, folder = clips.parent / "captions.jsonl", clips.parent
    out = folder / "zero.pt"
    result = call(out, "--data", "folder", "--root", clips, "--captions", captions, "--epochs", 3, "--validation", 0.3)
    assert result.exit_code == 0, result.output
    assert "captions: 10 of 12 clips to train on have one, 2 have none" in " ".join(result.output.split())
    assert "clips to train on + to validate on: 7+3, without labels" in result.output
    assert "step captions: best epoch" in result.output
    assert "own caption the closest" in result.output
    epochs = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert all(0 <= epoch["retrieval"] <= 1 and "war" not in epoch for epoch in epochs)
    method, training = load_checkpoint(out)
    assert training["learned_from"] == {
        "labels": [],
        "captions": ["clips"],
        "folds": [],
        "encoder": None,
        "divisions": [],
    }
    assert method.confidence.temperature == 1.0  # which takes labels to fit

    names = sorted(f"film{n % 3}/{n}" for n in range(12))
    found = []
    for label in (None, lambda n: "fear", lambda n: ("anger", "fear")[n % 2]):
        rows = [f"{name},train" + (f",{label(n)}" if label else "") for n, name in enumerate(names)]
        table = clips / "labels.csv"
        table.write_text("\n".join(["clip,split" + (",label" if label else ""), *rows, ""]))
        arguments = ["--data", "csv", "--root", clips, "--captions", captions, "--epochs", 3, "--validation", 0.3]
        result = call(folder / "csv.pt", *arguments)
        assert result.exit_code == 0, result.output
        found.append(load_checkpoint(folder / "csv.pt")[0].state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_captions_of_test_clips_are_refused_and_nothing_is_written(clips: Path) -> None:
    captions, out = clips.parent / "captions.jsonl", clips.parent / "zero.pt"
    rows = [f"film{n % 3}/{n},{'test' if n == 4 else 'train'}" for n in range(12)]
    (clips / "labels.csv").write_text("\n".join(["clip,split", *rows, ""]))
    result = call(out, "--data", "csv", "--root", clips, "--captions", captions)
    assert result.exit_code == 1
    assert "captions.jsonl, line 5: clip 'film1/4' is of the split test" in result.output.replace("\n", " ")
    (clips / "labels.csv").unlink()
    for split in ("train", "test"):
        (clips / split).mkdir()
    (clips / "film0").rename(clips / "train" / "film0")
    (clips / "film1").rename(clips / "test" / "film1")
    for place, words in (("test/film1/4", "of the split test"), ("film0/3", "not among the clips")):
        captions.write_text(json.dumps({"clip": place, "text": "the jaw drops"}))
        result = call(out, "--data", "folder", "--root", clips, "--captions", captions)
        assert (result.exit_code, words in result.output) == (1, True), result.output
    captions.write_text(json.dumps({"clip": "train/film0/3", "text": "joy"}))
    result = call(out, "--data", "folder", "--root", clips, "--captions", captions)
    assert "none of the 4 clips to train on has one; 1 clauses that name an emotion" in " ".join(result.output.split())
    assert not list(clips.parent.glob("zero*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--captions", "drawn", "--class-weights"],
            "--class-weights: needs labels, and zero-shot learns",
        ),
        (["--captions", "drawn", "--stills", "x.csv"], "--stills: needs labels"),
        (["--captions", "drawn", "--select-on-test"], "--select-on-test: needs labels"),
        (["--captions", "drawn", "--caption-weight", "2"], "--caption-weight: zero-shot has no other loss"),
        (["--epochs", "3"], "--epochs: zero-shot without captions trains nothing; add captions"),
        (["--ema", "0.5"], "--ema: zero-shot without captions trains nothing"),
        (["--batch", "8"], "--batch: zero-shot without captions trains nothing"),
        (["--identities", "8"], "--identities: zero-shot without captions draws nobody"),
        (["--data", "folder", "--root", "."], "--data: zero-shot without captions reads no clips"),
        (["--tokens", "3"], "--tokens: not an option of zero-shot, which has descriptions, captions"),
    ],
)
def test_what_it_cannot_use_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = call(tmp_path / "zero.pt", *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_killed_run_goes_on_as_if_nothing_had_been(clips: Path) -> None:
    captions, whole, killed = clips.parent / "captions.jsonl", clips.parent / "whole.pt", clips.parent / "killed.pt"
    rest = ["--data", "folder", "--root", clips, "--captions", captions, "--epochs", 40, "--validation", 0.3]
    assert call(whole, *rest).exit_code == 0
    command = [sys.executable, "-m", "dfer.train.cli.train", str(killed), *BASIC, *SMALL, *map(str, rest)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ.copy())
    state, end = killed.with_suffix(".state"), time.monotonic() + 120
    while not state.is_file() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert state.is_file()
    assert not killed.exists()
    result = call(killed, *rest, "--resume")
    assert result.exit_code == 0, result.output
    one, two = (load_checkpoint(path)[0].state_dict() for path in (whole, killed))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert killed.with_suffix(".jsonl").read_text() == whole.with_suffix(".jsonl").read_text()


@pytest.mark.long
def test_plain_clip_needs_no_data_and_exports_as_torch_computes(tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"pain": ["a face in pain", "a person who hurts"], "calm": "a calm face"}))
    result = call(tmp_path / "zero.pt", "--descriptions", texts)
    assert result.exit_code == 0, result.output
    assert "nothing was trained: without captions this is plain CLIP" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir() if path != texts] == ["zero.pt"]
    assert load_checkpoint(tmp_path / "zero.pt")[0].classes == ("pain", "calm")
    check_export(tmp_path / "zero.pt", ("pain", "calm"))


@pytest.mark.long
def test_a_trained_one_exports_as_torch_computes_and_swaps_its_classes(tmp_path: Path) -> None:
    method = make(True)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in method.temporal.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_checkpoint(method, tmp_path / "zero.pt", {})
    bundle = check_export(tmp_path / "zero.pt", EXPRESSIONS)
    texts, out = tmp_path / "texts.json", tmp_path / "other.dfer"
    texts.write_text(json.dumps({"pain": ["a face in pain", "a person who hurts"], "calm": "a calm face"}))
    call = ["--bundle", bundle.path, "--describe", texts, "--out", out]
    result = CliRunner().invoke(export_command.main, [str(argument) for argument in call])  # zero.pt lies beside it
    assert "with the classes pain, calm" in result.output
    described = Bundle.open(out)
    assert described.read("encoder.fp32.onnx") == bundle.read("encoder.fp32.onnx")
    wanted = by_the_tower("a face in pain", "a person who hurts").mean(dim=0).numpy()
    np.testing.assert_allclose(described.class_matrix()[0], wanted, atol=1e-6)


def check_export(checkpoint: Path, classes: tuple[str, ...]) -> Bundle:
    bundle = export_checkpoint(checkpoint, checkpoint.with_suffix(".dfer")).bundle
    assert bundle.manifest.classes == classes
    with open_model(checkpoint) as one, open_model(bundle.path) as two:
        for seed in range(3):
            frames = random_crops(16, one.size, seed)
            np.testing.assert_allclose(one.classify(frames), two.classify(frames), atol=1e-4)
    return bundle
