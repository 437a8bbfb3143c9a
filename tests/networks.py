"""Small random networks that several tests quantise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import ClipSizes, build_clip

SIZE = 32


def small_vit(layers: int = 2) -> AlignDfer:
    """An Align-DFER on a random ViT of 16 patches and width 128, in a fraction of a second."""
    torch.manual_seed(0)
    clip = build_clip(ClipSizes(64, SIZE, 8, 128, layers, 77, 49408, 64, 1))
    tower: Any = clip.model.visual
    with torch.no_grad():
        for block in tower.transformer.resblocks:  # as in trained towers, what blocks say should count
            block.attn.out_proj.weight *= 3
            block.mlp.c_proj.weight *= 3
    return AlignDfer(clip, tokens=2, video_layers=1).eval()


def add_outliers(method: AlignDfer, factor: float = 60.0) -> None:
    """Make some channels of the tower's LayerNorms large and their readers small: the same function, hard for INT8."""
    tower: Any = method.clip_model.visual
    picked = torch.tensor([3, 40, 77])
    with torch.no_grad():
        for block in tower.transformer.resblocks:
            for norm, weight in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
                norm.weight[picked] *= factor
                norm.bias[picked] *= factor
                weight[:, picked] /= factor


def random_crops(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Crops uint8 [N,size,size,3] of blurred noise, each with its own light: as unlike one another as faces."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
        crop = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * rng.uniform(0.4, 1.0)
        crops.append(np.clip(crop, 0, 255).astype(np.uint8))
    return np.stack(crops)


def write_crops(folder: Path, crops: np.ndarray) -> Path:
    """The crops as PNG files in a new folder."""
    folder.mkdir()
    for index, crop in enumerate(crops):
        cv2.imwrite(str(folder / f"{index:04}.png"), crop[..., ::-1])
    return folder
