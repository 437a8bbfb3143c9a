"""The feature store: computed once, gone on with after an interruption, used only for what it was made from."""

from __future__ import annotations

import copy
import errno
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_sets import NoiseClips
from torch import nn

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.data import labels_of
from dfer.train.data.augmentation import paper_view
from dfer.train.data.features import Extraction, stored_features, stored_view
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import ClipSizes, build_clip, load_clip


@pytest.fixture(scope="module")
def method() -> AlignDfer:
    torch.manual_seed(0)
    return AlignDfer(load_clip("dfer-nano"), tokens=2).eval()


SETTINGS = Extraction(views=1, batch=2)


def test_view_zero_is_what_the_runtime_sees_and_nothing_is_computed_twice(method: AlignDfer, tmp_path: Path) -> None:
    clips = NoiseClips(5)
    stored = stored_features(tmp_path, method, clips, SETTINGS)
    assert stored.features.shape == (2, 5, 16, method.width)
    assert stored.labels.tolist() == [0, 1, 2, 3, 4]
    crops = np.stack([cv2.resize(crop, (64, 64), interpolation=cv2.INTER_LINEAR) for crop in clips.frames(3)])
    with torch.inference_mode():
        wanted = method.encode_frames(torch.from_numpy(crops)).numpy()
    assert (wanted * stored.features[0, 3].astype(np.float32)).sum(axis=1).min() > 0.999
    assert np.abs(stored.features[0] - stored.features[1]).max() > 0.01
    reads = clips.reads
    again = stored_features(tmp_path, method, clips, SETTINGS)
    assert clips.reads == reads
    assert np.array_equal(again.features, stored.features)


def test_an_interrupted_extraction_goes_on_and_ends_the_same(
    method: AlignDfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.train.data.features._FLUSH_EVERY", 0.0)
    whole = stored_features(tmp_path / "whole", method, NoiseClips(9), SETTINGS)
    clips = NoiseClips(9)
    clips.fails_at = 6
    with pytest.raises(KeyboardInterrupt):
        stored_features(tmp_path / "cut", method, clips, SETTINGS)
    clips.fails_at, clips.reads = -1, 0
    resumed = stored_features(tmp_path / "cut", method, clips, SETTINGS)
    assert clips.reads == 2 * 3  # three clips were left, two views each
    assert np.array_equal(resumed.features, whole.features)


def test_processes_share_the_work(method: AlignDfer, tmp_path: Path) -> None:
    whole = stored_features(tmp_path / "whole", method, NoiseClips(7), SETTINGS)
    first, second = NoiseClips(7), NoiseClips(7)
    stored_features(tmp_path / "shared", method, first, replace(SETTINGS, rank=0, world=2))
    both = stored_features(tmp_path / "shared", method, second, replace(SETTINGS, rank=1, world=2))
    assert (first.reads, second.reads) == (8, 6)
    assert np.array_equal(both.features, whole.features)


def test_features_are_computed_in_the_precision_asked_for_and_stored_by_it(method: AlignDfer, tmp_path: Path) -> None:
    types: list[torch.dtype] = []
    hook = method.image_encoder.register_forward_hook(lambda _, __, features: types.append(features.dtype))
    full = stored_features(tmp_path, method, NoiseClips(2), SETTINGS).features
    assert set(types) == {torch.float32}
    half = stored_features(tmp_path, method, NoiseClips(2), replace(SETTINGS, precision="bf16")).features
    hook.remove()
    assert 0 < np.abs(full - half).max() < 0.1
    assert len(list(tmp_path.iterdir())) == 2


def test_other_data_weights_or_views_have_another_store(method: AlignDfer, tmp_path: Path) -> None:
    stored_features(tmp_path, method, NoiseClips(2), SETTINGS)
    stored_features(tmp_path, method, NoiseClips(2, "other"), SETTINGS)
    stored_features(tmp_path, method, NoiseClips(2), replace(SETTINGS, views=0))
    torch.manual_seed(5)
    stored_features(tmp_path, AlignDfer(load_clip("dfer-nano"), tokens=2).eval(), NoiseClips(2), SETTINGS)
    assert len(list(tmp_path.iterdir())) == 4


def test_towers_of_equal_weights_that_compute_otherwise_share_no_store(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = build_clip(ClipSizes(64, 32, 8, 64, 1, 77, 49408, 64, 1))
    other = replace(plain, model=copy.deepcopy(plain.model), name="of-gelu", sizes=None)
    for part in other.model.modules():
        for name, child in part.named_children():
            if type(child).__name__ == "QuickGELU":
                setattr(part, name, nn.GELU())
    stored = []
    for clip in (plain, other):
        method = AlignDfer(clip, tokens=2).eval()
        stored.append(np.array(stored_features(tmp_path, method, NoiseClips(2), SETTINGS).features))
    assert (stored[0] != stored[1]).mean() > 0.5


@pytest.mark.parametrize("damage", ["junk", "cut", "longer", "bit", "other shape"])
def test_a_damaged_store_is_an_error_that_says_what_to_do(method: AlignDfer, tmp_path: Path, damage: str) -> None:
    stored_features(tmp_path, method, NoiseClips(2), SETTINGS)
    (store,) = tmp_path.iterdir()
    path = store / "features.npy"
    data = path.read_bytes()
    changed = {
        "junk": b"junk",
        "cut": data[:-100],
        "longer": data + b"0",
        "bit": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "other shape": (store / "done.npy").read_bytes(),
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(DferError, match=r"features: store .*remove it or name another folder"):
        stored_features(tmp_path, method, NoiseClips(2), SETTINGS)
    assert path.read_bytes() == changed  # not repaired behind one's back


def test_a_full_disk_is_told_before_anything_is_computed(
    method: AlignDfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    clips = NoiseClips(2)
    with pytest.raises(DferError, match=r"features: store .*0.0 GB are needed, and the disk has less"):
        stored_features(tmp_path, method, clips, SETTINGS)
    assert clips.reads == 0


def test_views_of_equal_clips_differ_from_clip_to_clip_view_to_view_and_seed_to_seed() -> None:
    clips = NoiseClips(2)
    equal = clips.frames(0)
    clips.frames = lambda index, rng=None: equal  # type: ignore[method-assign, misc]
    views = [
        stored_view(clips, index, view, 32, Extraction(seed=seed)).tobytes()
        for index, view, seed in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))
    ]
    assert len(set(views)) == 4


def test_labels_are_matched_by_name() -> None:
    clips = NoiseClips(3)
    assert labels_of(clips, ("contempt", *reversed(EXPRESSIONS))).tolist() == [7, 6, 5]
    with pytest.raises(DferError, match="the data show sadness; the model knows happiness, neutral"):
        labels_of(clips, ("happiness", "neutral"))


def test_the_papers_crop_keeps_its_part_of_the_frame() -> None:
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], (128, 1, 3))[None].repeat(3, axis=0)
    for seed in range(20):
        view = paper_view(ramp, 112, np.random.default_rng(seed)).frames
        assert view.shape == (3, 112, 112, 3)
        assert (view == view[0]).all()  # one crop for the whole clip
        row = view[0, 56, :, 0].astype(int)
        part = abs(row[-1] - row[0]) / 255
        assert 0.85 < part < 1.01
