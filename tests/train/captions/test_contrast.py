"""The contrast of clips and captions: equal to one computed by hand, and without negatives of the same class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dfer.train.captions.contrast import CaptionTokens, contrast
from dfer.train.models.clip import load_clip


def by_hand(video: np.ndarray, text: np.ndarray, labels: np.ndarray, scale: float) -> float:
    total = 0.0
    for one, other in ((video, text), (text, video)):
        for i in range(len(labels)):
            negatives = [np.exp(scale * one[i] @ other[j]) for j in range(len(labels)) if labels[j] != labels[i]]
            own = np.exp(scale * one[i] @ other[i])
            total -= np.log(own / (own + sum(negatives)))
    return total / (2 * len(labels))


def features(count: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 1, 1], [2, 0, 2, 1, 2, 0]])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_it_is_the_masked_infonce(labels: list[int], scale: float) -> None:
    video, text = features(len(labels), 1), features(len(labels), 2)
    found = contrast(video, text, torch.tensor(labels), scale)
    wanted = by_hand(video.double().numpy(), text.double().numpy(), np.array(labels), scale)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert float(found) == pytest.approx(float(contrast(text, video, torch.tensor(labels), scale)), rel=1e-6)


def test_captions_of_the_same_class_are_not_pushed_away() -> None:
    video, text = features(3, 1).requires_grad_(), features(3, 2).requires_grad_()
    contrast(video, text, torch.tensor([0, 0, 1]), 10.0).backward()
    assert video.grad is not None and text.grad is not None
    lone_video, lone_text = video.detach()[[0, 2]].requires_grad_(), text.detach()[[0, 2]]
    contrast(lone_video, lone_text, torch.tensor([0, 1]), 10.0).backward()
    assert lone_video.grad is not None
    # Per clip, as if the other clip of its class were not in the batch.
    torch.testing.assert_close(2 * lone_video.grad[0], 3 * video.grad[0])


@pytest.mark.parametrize("count", [1, 3])
def test_one_class_alone_teaches_nothing(count: int) -> None:
    video = features(count, 1).requires_grad_()
    loss = contrast(video, features(count, 2), torch.zeros(count, dtype=torch.int64), 100.0)
    loss.backward()
    assert float(loss.detach()) == 0 and video.grad is not None and not video.grad.any()


def test_clips_without_captions_are_left_out_and_one_of_several_is_drawn() -> None:
    tokens = CaptionTokens(load_clip("dfer-nano"), {"a": ("the jaw drops",), "b": ("lips part", "brows rise " * 60)})
    assert (len(tokens), tokens.cut) == (3, 1)
    torch.manual_seed(0)
    drawn = [tokens.draw(["x", "b", "a", "b"]) for _ in range(20)]
    assert all(places.tolist() == [1, 2, 3] and captions[1] == 0 for places, captions in drawn)
    assert {int(captions[0]) for _, captions in drawn} == {1, 2}
    places, captions = tokens.draw(["x"])
    assert (len(places), len(captions)) == (0, 0)
