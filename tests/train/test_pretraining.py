"""Pre-training: as short as the command allows, and what it says of its own certainty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.models.clip import load_clip
from dfer.train.pretraining import Images, PretrainSettings, classify, pretrain


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 12)
    return Images(rng.integers(0, 256, (12, 128, 128, 3), dtype=np.uint8), np.eye(7, dtype=np.float32)[labels])


@pytest.mark.parametrize("steps", [10, 11])
def test_a_few_steps_are_enough_to_warm_up(images: Images, steps: int) -> None:
    torch.manual_seed(0)
    clip = load_clip("dfer-nano")
    before = [parameter.clone() for parameter in clip.model.parameters()]
    heard: list[int] = []
    pretrain(clip, [(images, 1.0)], PretrainSettings(steps=steps, batch=2), lambda step, _: heard.append(step))
    assert heard == list(range(1, steps + 1))
    assert any(not torch.equal(old, new) for old, new in zip(before, clip.model.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in clip.model.parameters())


def test_images_are_classified_by_probabilities(images: Images) -> None:
    torch.manual_seed(0)
    clip = load_clip("dfer-nano")
    found = classify(clip, images)
    assert found.shape == (12, len(EXPRESSIONS))
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    with torch.no_grad():
        clip.model.logit_scale.fill_(np.log(100))  # type: ignore[operator, union-attr]
    assert classify(clip, images).max() > found.max()  # the learned scale says how sure it is
