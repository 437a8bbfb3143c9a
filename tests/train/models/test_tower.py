"""Towers of timm by name, at the sizes that they can read."""

from __future__ import annotations

import pytest
import torch

from dfer.runtime.errors import ParameterError
from dfer.train.models.tower import build_tower, inherit


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


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("deit_tiny_patch16_224", 120, "120 does not divide into the patches of 16 of deit_tiny_patch16_224; 112 and"),
        ("vit_small_patch32_224", 112, "112 does not divide into the patches of 32 of vit_small_patch32_224; 96 and"),
        ("mixer_s32_224", 80, "80 does not divide into the patches of 32 of mixer_s32_224; 64 and 96 do"),
    ],
)
def test_a_tower_that_would_not_read_the_edge_of_a_face_is_refused(name: str, size: int, problem: str) -> None:
    with pytest.raises(ParameterError, match=f"^image_size: {problem}"):
        build_tower(name, 8, size)


def test_a_shallower_tower_begins_as_a_part_of_its_teachers_layers() -> None:
    torch.manual_seed(0)
    teacher, student = build_tower("dfer_resnet_small", 24, 80), build_tower("dfer_resnet_tiny", 24, 80)
    inherit(student, teacher)
    theirs = teacher.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in student.state_dict().items())
    narrower = build_tower("dfer_resnet_tiny", 8, 80)
    last = narrower.state_dict()["fc.weight"].clone()
    inherit(narrower, teacher)
    own = narrower.state_dict()
    assert torch.equal(own["layer4.0.conv2.weight"], theirs["layer4.0.conv2.weight"])
    assert torch.equal(own["fc.weight"], last)


@pytest.mark.parametrize(
    ("name", "size", "teacher"), [("dfer_resnet_nano", 64, "dfer_resnet_small"), ("dfer_resnet_tiny", 80, "test_vit")]
)
def test_nothing_is_taken_over_from_a_narrower_tower_or_one_of_another_kind(name: str, size: int, teacher: str) -> None:
    student = build_tower(name, 24, size)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    inherit(student, build_tower(teacher, 24, 64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
