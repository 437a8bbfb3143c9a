"""Small convolutional image towers of our own, registered with timm for the open_clip configs in `configs/`.

Convolutions learn faces from thousands of images where a transformer of the same size wants millions.
Import this through `clip.py` only: timm imports torchvision, which needs the cure applied there.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet


def _resnet(
    pretrained: bool, layers: tuple[int, ...], channels: tuple[int, ...], num_classes: int, global_pool: str
) -> ResNet:
    if pretrained:
        raise ValueError("the dfer_resnet towers come without pretrained weights")
    tower = ResNet(
        BasicBlock,
        layers,
        num_classes=num_classes,
        global_pool=global_pool,
        channels=channels,
        stem_width=channels[0] // 2,
        stem_type="deep",
        avg_down=True,
        replace_stem_pool=True,
        zero_init_last=False,  # blocks that begin as identities cost so small a tower hundreds of steps
    )
    # open_clip asks a timm model for these two.
    tower.default_cfg = tower.pretrained_cfg = {"pool_size": None, "input_size": (3, 112, 112)}
    return tower


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_small(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-18's plan at 0.5 of its width (2.4 M parameters, 6 ms a frame at 112 px on one core)."""
    return _resnet(pretrained, (2, 2, 2, 2), (32, 64, 128, 224), num_classes, global_pool)


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_nano(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-10's plan at 1/4 of its width (0.3 M parameters): trains in seconds, for tests."""
    return _resnet(pretrained, (1, 1, 1, 1), (16, 32, 64, 96), num_classes, global_pool)
