"""Checkpoints: the same model comes back, and nothing in a file can run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dfer.runtime.errors import DferError
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint, save_trained
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip
from helpers import Pipeline


class Malicious:
    """Unpickling this leaves a file behind, were it allowed to."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.trace),))


def refused(path: Path, words: str) -> None:
    with pytest.raises(DferError, match=words) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_the_trained_model_comes_back(pipeline: Pipeline) -> None:
    first, training = load_checkpoint(pipeline.checkpoint)
    second, _ = load_checkpoint(pipeline.checkpoint)
    features = torch.randn(2, 16, 128)
    torch.testing.assert_close(first.logits(features), second.logits(features))
    assert training["plan"]["epochs"] == (6, 6, 6)
    assert not first.training


def test_pickled_code_is_refused_and_does_not_run(pipeline: Pipeline, tmp_path: Path) -> None:
    content = torch.load(pipeline.checkpoint, weights_only=True)
    content["training"] = Malicious(tmp_path / "was-here")
    torch.save(content, tmp_path / "bad.pt")
    refused(tmp_path / "bad.pt", "pickled objects")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "was-here")))
    refused(tmp_path / "raw.pt", "not a PyTorch file")
    assert not (tmp_path / "was-here").exists()


def test_foreign_broken_and_missing_files_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    refused(tmp_path / "absent.pt", "no such file")
    for text in ("hello", "Dear all", ""):
        (tmp_path / "text.pt").write_text(text)
        refused(tmp_path / "text.pt", r"text\.pt: not a PyTorch file$")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt", "not written by dfer-train")
    data = pipeline.checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut.pt", "not a PyTorch file")
    content = torch.load(pipeline.checkpoint, weights_only=True)
    content["state"].popitem()
    torch.save(content, tmp_path / "lacking.pt")
    refused(tmp_path / "lacking.pt", "config or weights are not whole")
    for damage in ({"method": ["x"]}, {"method": "x"}, {"config": {}}, {"config": None}, {"training": 3}):
        torch.save({**torch.load(pipeline.checkpoint, weights_only=True), **damage}, tmp_path / "damaged.pt")
        refused(tmp_path / "damaged.pt", "damaged.pt: (method|config)")


@pytest.fixture
def parted(tmp_path: Path) -> tuple[AlignDfer, Path, Path]:
    """A model, its whole checkpoint, and one of what its training trains."""
    torch.manual_seed(0)
    method = AlignDfer(load_clip("dfer-nano"), tokens=2, single_step=True).eval()
    whole, part = tmp_path / "whole.pt", tmp_path / "whole.last.pt"
    save_checkpoint(method, whole, {})
    save_trained(method, method.trained_state(method.phases(method.default_plan)), part, {"epochs": 3}, whole)
    return method, whole, part


def test_frozen_weights_are_stored_once(parted: tuple[AlignDfer, Path, Path]) -> None:
    method, whole, part = parted
    names = set(torch.load(part, weights_only=True)["state"])
    assert not [name for name in names if name.startswith("clip_model.")]
    assert {"sentences.tokens", "video_side.position", "text_side.position"} <= names  # both names of JAS
    again, training = load_checkpoint(part)
    assert training == {"epochs": 3}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in method.state_dict().items())
    assert part.stat().st_size < 0.1 * whole.stat().st_size


def test_what_was_trained_is_its_own_whatever_the_whole_checkpoint_becomes(
    parted: tuple[AlignDfer, Path, Path],
) -> None:
    method, whole, part = parted
    with torch.no_grad():
        for parameter in method.video_side.parameters():
            parameter.add_(1)
    save_checkpoint(method, whole, {})
    old, _ = load_checkpoint(part)
    torch.testing.assert_close(old.video_side.position + 1, method.video_side.position)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(old.text_side.position + 1, method.text_side.position)  # type: ignore[operator, union-attr]


def test_missing_or_other_frozen_weights_are_named(parted: tuple[AlignDfer, Path, Path]) -> None:
    method, whole, part = parted
    with torch.no_grad():
        method.clip_model.logit_scale.add_(1)  # type: ignore[operator, union-attr]
    save_checkpoint(method, whole, {})
    refused(part, r"last\.pt: the frozen weights in .*whole\.pt are not those that it was trained with")
    whole.unlink()
    refused(part, r"last\.pt: its frozen weights are in .*whole\.pt, which is not there")
    content = torch.load(part, weights_only=True)
    torch.save({**content, "frozen": {"file": "../../etc/passwd", "sha256": ""}}, part)
    refused(part, f"frozen weights are in {part.with_name('passwd')}, which")
    torch.save({**content, "frozen": 3}, part)
    refused(part, "config or weights are not whole")


@given(data=st.binary(max_size=60))
@example(data=b"\x80")
@example(data=b"PK\x03\x04")
@settings(max_examples=50)
def test_any_bytes_are_refused_in_one_line(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("junk") / "junk.pt"
    path.write_bytes(data)
    refused(path, "junk.pt")
