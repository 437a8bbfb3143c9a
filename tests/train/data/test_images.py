"""Random views of many faces at once: what they may change, and what not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfer.train.data.images import Images, random_views, with_hands
from dfer.train.data.procedural import ProceduralClips


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    frames = ProceduralClips([3]).frames(0)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_views_have_the_size_asked_for_and_stay_in_range(faces: torch.Tensor, channels: int) -> None:
    views = random_views(faces[:, :channels], 48, torch.Generator().manual_seed(0))
    assert views.shape == (len(faces), channels, 48, 48)
    assert views.min() >= 0
    assert views.max() <= 1


def test_a_seed_gives_the_same_views_and_another_gives_others(faces: torch.Tensor) -> None:
    one, same, other = (random_views(faces, 48, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one - other).abs().mean() > 0.02


def test_views_are_of_the_face_they_are_made_from(faces: torch.Tensor) -> None:
    """A view is more like its own picture than like a negative of it, half of them like its mirror image."""
    face = faces[:1].mean(dim=1, keepdim=True).expand(256, 1, 128, 128)
    views = random_views(face, 32, torch.Generator().manual_seed(0))
    small = torch.nn.functional.interpolate(face[:1], size=(32, 32), mode="area")
    left = small.clone()
    left[..., 16:] = small[..., 16:].mean()  # a picture that has a left and a right side
    views = random_views(torch.nn.functional.interpolate(left, size=(128, 128)).expand(256, 1, 128, 128), 32, _seeded())
    centred = (views - views.mean(dim=(2, 3), keepdim=True)).flatten(1)
    own, mirror = ((picture - picture.mean()).flatten() for picture in (left, left.flip(-1)))
    straight, flipped = centred @ own, centred @ mirror
    assert (torch.maximum(straight, flipped) > 0).float().mean() > 0.99
    assert 0.4 < float((flipped > straight).float().mean()) < 0.6


def test_hands_cover_the_lower_face_of_a_share_of_the_views_and_leave_the_eyes() -> None:
    views = torch.full((400, 1, 64, 64), 0.5)
    shown = with_hands(views, 0.25, _seeded())
    assert torch.equal(shown, with_hands(views, 0.25, _seeded()))
    covered = (shown != views)[:, 0]
    assert 0.2 < float(covered.flatten(1).any(dim=1).float().mean()) < 0.3
    places = covered[covered.flatten(1).any(dim=1)].float().mean(dim=0)
    assert places[:24].max() < 0.1  # eyes, in an aligned face
    assert places[42:50, 24:40].mean() > 0.3  # mouth
    assert shown.min() > 0.2  # about as bright as the face, edges in shadow
    assert shown.max() < 0.7


def test_one_label_is_believed_less_than_votes(tmp_path: object) -> None:
    images = Images(np.zeros((2, 128, 128, 3), np.uint8), np.array([[0.5, 0.5], [0.1, 0.9]], np.float32))
    assert images.labels.tolist() == [0, 1]
    assert images.accuracy(np.array([[0.2, 0.8], [0.9, 0.1]], np.float32)) == 0.5  # a tie counts for both


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
