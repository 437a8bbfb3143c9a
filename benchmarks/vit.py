"""A bundle of DFER-CLIP on a ViT with random weights, in FP32 and INT8, for the speed benchmarks.

A graph's speed does not depend on its weights. Faces for INT8's ranges are procedural. The bundle is kept in a work
folder, since exporting a ViT-B/32 takes minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from precision import drawn_faces

from dfer.export.exporting import export_method
from dfer.export.options import ExportOptions
from dfer.runtime.bundle import MANIFEST
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.models.clip import load_clip
from dfer.train.models.descriptions import DESCRIPTIONS
from dfer.train.models.prompts import DescribedPrompts


def random_dfer_clip(clip: str = "ViT-B-32", size: int = 224, patches: int | None = None) -> DferClip:
    """Build the published model (eight contexts per class, windows of 16) with random weights for `size` pixels."""
    torch.manual_seed(0)
    loaded = load_clip(clip, image_size=size, patches=patches)
    sentences = [DESCRIPTIONS[name][0] for name in EXPRESSIONS]
    return DferClip(loaded, DescribedPrompts.from_sentences(loaded, sentences)).eval()


def vit_bundle(
    folder: Path, clip: str = "ViT-B-32", int8: bool = True, size: int = 224, patches: int | None = None
) -> Path:
    """Return the bundle of `random_dfer_clip`, exported on first use and kept in `folder`."""
    path = folder / f"{clip}.{size}{f'.{patches}' if patches else ''}{'.int8' if int8 else ''}.dfer"
    if not (path / MANIFEST).is_file():
        options = ExportOptions(int8=int8, faces=drawn_faces(folder, size) if int8 else None)
        export_method(
            random_dfer_clip(clip, size, patches), path, {}, options, lambda step: print(step, file=sys.stderr)
        )
    return path
