"""A student has its teacher's head, whatever method that is of, and learns from features or from labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dfer.runtime.errors import ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dfer.train.confidence import Confidence
from dfer.train.data import Batch
from dfer.train.methods import Method, method_class, method_names
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.methods.finecliper import FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.methods.student import Student, distillation_phase
from dfer.train.models.clip import load_clip

PLAN = Plan((1,), (1e-3,), (1,))
TEACHERS: list[Callable[[], Method]] = [
    lambda: AlignDfer(load_clip("dfer-nano"), tokens=2, video_layers=2),
    lambda: DferClip.from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN),
    lambda: FineCliper.from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN, adapter="none"),
    lambda: FineCliper.from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN, adapter="none", no_temporal=True),
]


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student.of_teacher(TEACHERS[0]().eval(), "dfer_resnet_nano", 32, None)


@pytest.mark.parametrize("build", TEACHERS)
def test_the_head_is_the_teachers(build: Callable[[], Method], tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = build().eval()
    teacher.confidence = Confidence(1.5, 0.3)
    student = Student.of_teacher(teacher, "dfer_resnet_nano", 32, 8.0 if isinstance(teacher, DferClip) else None)
    features = torch.randn(3, teacher.window, teacher.width)
    save_checkpoint(student, tmp_path / "student.pt", {}, student.confidence)
    with torch.no_grad():
        wanted = teacher.logits(features)
        torch.testing.assert_close(student.eval().logits(features), wanted, atol=1e-4, rtol=1e-4)
        loaded, _ = load_checkpoint(tmp_path / "student.pt")
        torch.testing.assert_close(loaded.logits(features), wanted, atol=1e-4, rtol=1e-4)


def test_a_tower_of_the_teachers_kind_begins_where_the_teacher_is() -> None:
    """But for its normalisation of pixels, which is another."""
    crops = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    teacher = TEACHERS[0]().eval()
    for tower, same in (("dfer_resnet_nano", True), ("test_resnet", False)):
        student = Student.of_teacher(teacher, tower, 32, None).eval()
        with torch.no_grad():
            cosine = torch.cosine_similarity(student.encode_frames(crops), teacher.encode_frames(crops)).mean()
        assert (cosine > 0.95) == same


def test_a_frame_alone_is_a_window_that_it_fills(student: Student) -> None:
    crops = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(crops), student(crops[:, None].expand(-1, 16, -1, -1, -1)))


def test_the_loss_is_zero_where_the_features_are_the_teachers(student: Student) -> None:
    crops = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    student.eval()
    with torch.no_grad():
        own = student.encode_frames(crops)
        assert student.loss(Batch(crops, labels, [""] * 4, taught=own), None, None) == pytest.approx(0, abs=1e-5)
        assert student.loss(Batch(crops, labels, [""] * 4, taught=-own), None, None) > 2
        clips = torch.randn(4, 16, student.width)
        assert student.loss(Batch(clips, labels, [""] * 4), None, None) > 0  # cross-entropy of labels


def test_only_what_is_trained_is_in_training(student: Student) -> None:
    student.requires_grad_(False)
    student.tower.requires_grad_(True)
    student.train()
    assert student.tower.training
    assert not student.temporal.training  # whose dropout would blur what the teacher says
    trained = student.trained_state([distillation_phase(1, 1e-3)])
    assert {name.partition(".")[0] for name in trained} == {"tower"}
    assert any(name.endswith("running_mean") for name in trained)


def test_rows_of_the_class_matrix_keep_their_length(student: Student) -> None:
    before = student.class_matrix().norm(dim=-1)
    with torch.no_grad():
        student.matrix.mul_(3).add_(0.1)
    torch.testing.assert_close(student.class_matrix().norm(dim=-1), before)


def test_dfer_train_cannot_make_one() -> None:
    assert "student" not in method_names()
    with pytest.raises(ParameterError, match="use dfer-distill"):
        method_class("student").from_options(load_clip("dfer-nano"), EXPRESSIONS, PLAN)
