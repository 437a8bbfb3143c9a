"""Our small convolutional image towers, registered with timm for the open_clip configs in `configs/`.

Convolutions learn faces from thousands of images where a transformer of the same size needs millions.
Import this through `clip.py` only: timm imports torchvision, which needs the workaround applied there.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

BORDER = 8
"""Aligned crops have a border of 1/BORDER of their side around the face; it shows hair and background and is cut."""


class FaceResNet(ResNet):  # type: ignore[misc]
    """A ResNet (He et al. 2016, with average downsampling) that reads the middle 3/4 of aligned crops [N,3,S,S].

    Faces are small already: the stem is one strided convolution, without pooling.
    """

    def __init__(
        self, layers: tuple[int, ...], channels: tuple[int, ...], num_classes: int, global_pool: str, size: int
    ) -> None:
        super().__init__(
            BasicBlock,
            layers,
            num_classes=num_classes,
            global_pool=global_pool,
            channels=channels,
            stem_width=channels[0] // 2,
            stem_type="deep",
            avg_down=True,
            replace_stem_pool=True,
            zero_init_last=False,  # blocks that start as identities cost so small a tower hundreds of steps
        )
        self.conv1 = nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.maxpool = nn.Identity()
        # open_clip reads these two attributes of a timm model.
        self.default_cfg = self.pretrained_cfg = {"pool_size": None, "input_size": (3, size, size)}

    def forward_features(self, x: Tensor) -> Tensor:
        border = x.shape[-1] // BORDER
        features: Tensor = super().forward_features(x[..., border:-border, border:-border])
        return features


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_large(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-18's layout at full width (11 M parameters) on 80 px crops: a teacher, four times as costly as small."""
    _refuse_pretrained(pretrained)
    return FaceResNet((2, 2, 2, 2), (64, 128, 256, 512), num_classes, global_pool, 80)


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_small(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-14's layout at half its width (2.35 M parameters) on 80 px crops."""
    _refuse_pretrained(pretrained)
    return FaceResNet((1, 2, 2, 2), (32, 64, 128, 224), num_classes, global_pool, 80)


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_tiny(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-10's layout at half its width (1.1 M parameters) on 80 px crops: like small, with one block per stage."""
    _refuse_pretrained(pretrained)
    return FaceResNet((1, 1, 1, 1), (32, 64, 128, 224), num_classes, global_pool, 80)


@register_model  # type: ignore[untyped-decorator]
def dfer_resnet_nano(pretrained: bool = False, num_classes: int = 1000, global_pool: str = "avg", **_: Any) -> ResNet:
    """ResNet-10's layout at 1/4 of its width (0.2 M parameters) on 64 px crops: trains in seconds, for tests."""
    _refuse_pretrained(pretrained)
    return FaceResNet((1, 1, 1, 1), (16, 32, 64, 96), num_classes, global_pool, 64)


def _refuse_pretrained(pretrained: bool) -> None:
    if pretrained:
        raise ValueError("the dfer_resnet towers come without pretrained weights")
