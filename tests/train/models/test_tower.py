"""Towers of timm by name, at the sizes that they can read."""

from __future__ import annotations

import pytest
import torch

from dfer.runtime.errors import ParameterError
from dfer.train.models.tower import build_tower


@pytest.mark.parametrize(
    ("name", "size"), [("dfer_resnet_nano", 48), ("test_resnet", 48), ("test_vit", 64), ("test_efficientnet", 64)]
)
def test_each_gives_one_feature_for_an_image(name: str, size: int) -> None:
    with torch.no_grad():
        assert build_tower(name, 24, size)(torch.rand(3, 3, size, size)).shape == (3, 24)


def test_an_unknown_name_is_told_with_near_ones() -> None:
    with pytest.raises(ParameterError, match=r"^tower: timm has no model 'resnet19'; near names are .*resnet18"):
        build_tower("resnet19", 8, 64)
    with pytest.raises(ParameterError, match="timm has no model 'hf-hub:timm/resnet18'"):  # which it would fetch
        build_tower("hf-hub:timm/resnet18", 8, 64)


def test_a_size_that_does_not_fit_is_told() -> None:
    with pytest.raises(ParameterError, match=r"^image_size: test_vit cannot read images of 50 px"):
        build_tower("test_vit", 8, 50)
