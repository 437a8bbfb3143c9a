"""A teacher of patterns, and faces that show them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import random_crops
from torch.nn import functional

from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import save_checkpoint
from dfer.train.checkpoints.protocol import KEY, LearnedFrom
from dfer.train.distillation.options import DistillOptions
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.models.clip import load_clip
from dfer.train.models.tokens import WordedSentences

PER_CLASS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faces/CLASS/NUMBER/0.png: a pattern for each class, in its own noise; and teacher.pt, which tells them apart."""
    root, rng = tmp_path_factory.mktemp("distillation"), np.random.default_rng(0)
    patterns = random_crops(len(EXPRESSIONS), 64)
    for label, pattern in zip(EXPRESSIONS, patterns, strict=True):
        for number in range(PER_CLASS):
            clip = root / "faces" / label / str(number)
            clip.mkdir(parents=True)
            noisy = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(clip / "0.png"), noisy[..., ::-1])
    torch.manual_seed(0)
    teacher = AlignDfer(load_clip("dfer-nano"), tokens=0, video_layers=None).eval()
    with torch.no_grad():
        features = teacher.encode_frames(torch.from_numpy(patterns))
        assert isinstance(teacher.sentences, WordedSentences)
        directions = functional.normalize(features - features.mean(dim=0), dim=-1)
        teacher.sentences.features.copy_(directions[:, None].expand(-1, 16, -1))
    save_checkpoint(teacher, root / "teacher.pt", {"name": "patterns", KEY: LearnedFrom(("patterns",)).to_json()})
    return root


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(
        folder / "teacher.pt",
        tmp_path / "student.pt",
        "test_resnet",
        str(folder / "faces"),
        image_size=32,
        views=1,
        held_back=0.2,
        epochs=4,
        learning_rate=5e-3,
        batch=14,
        features=folder / "features",
        workers=1,
    )
