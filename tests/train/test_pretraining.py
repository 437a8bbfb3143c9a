"""Pre-training: as short as the command allows, stopped and resumed, taught; and what it says of its own certainty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dfer.runtime.errors import DferError, ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train import pretraining
from dfer.train.cli.pretrain import main
from dfer.train.data.images import Images
from dfer.train.methods.method import LUMA
from dfer.train.models.clip import Clip, ClipSizes, build_clip, load_clip, save_weights
from dfer.train.pretraining import Pretraining, PretrainSettings, class_features, classify, fit_text


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 12)
    return Images(rng.integers(0, 256, (12, 128, 128, 3), dtype=np.uint8), np.eye(7, dtype=np.float32)[labels])


def nano(grey: bool = False) -> Clip:
    torch.manual_seed(0)
    return load_clip("dfer-nano", grey=grey)


def nothing(step: int, loss: float) -> None:
    pass


@pytest.fixture(autouse=True)
def short_text_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit of the text tower, which takes most of the time of such short runs, hardly begins."""
    monkeypatch.setattr(pretraining, "_TEXT_STEPS", 1)


@pytest.fixture
def whole_text_fit(short_text_fit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "_TEXT_STEPS", 100)


def test_a_few_steps_are_enough_to_warm_up(images: Images) -> None:
    clip, steps = nano(), 10
    before = [parameter.clone() for parameter in clip.model.parameters()]
    heard: list[int] = []
    run = Pretraining(clip, [(images, 1.0)], PretrainSettings(steps=steps, batch=2))
    run.run(False, lambda step, _: heard.append(step))
    assert heard == list(range(1, steps + 1))
    assert any(not torch.equal(old, new) for old, new in zip(before, clip.model.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in clip.model.parameters())


@pytest.mark.usefixtures("whole_text_fit")
def test_descriptions_end_at_the_vectors_that_images_were_drawn_to(images: Images) -> None:
    clip = nano()
    run = Pretraining(clip, [(images, 1.0)], PretrainSettings(steps=10, batch=2))
    torch.testing.assert_close(run.vectors @ run.vectors.T, torch.eye(7), atol=1e-5, rtol=0)
    run.run(False, nothing)
    cosines = class_features(clip) @ run.vectors.T
    assert cosines.diagonal().min() > 0.95
    assert (cosines - cosines.diagonal().diag()).abs().max() < 0.2


@pytest.mark.usefixtures("whole_text_fit")
def test_what_is_learned_is_known_afterwards() -> None:
    """Two kinds of picture that a child can tell apart: dark above and bright below, and the other way round."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 215, 128)[None, :, None, None] * np.ones((64, 1, 128, 3))
    ramp[::2] = ramp[::2, ::-1]
    frames = (ramp + rng.normal(0, 10, ramp.shape)).clip(0, 255).astype(np.uint8)
    images = Images(frames, np.eye(7, dtype=np.float32)[np.arange(64) % 2])
    clip = nano()
    settings = PretrainSettings(steps=20, batch=8, average=0.8)
    Pretraining(clip, [(images, 1.0)], settings).run(False, nothing)
    assert images.accuracy(classify(clip, images)) == 1


class Stop(Exception):
    pass


def shown_to(teacher: Clip, student: Clip, images: Images, hands: float) -> list[torch.Tensor]:
    """What the teacher and the student see in the first step, float32 [8,3,S,S], 0..1."""
    run = Pretraining(student, [(images, 1.0)], PretrainSettings(steps=10, batch=8, hands=hands), teacher)
    seen: list[torch.Tensor] = []
    for clip in (teacher, student):
        clip.model.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))  # type: ignore[operator, union-attr]

    def stop(step: int, loss: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        run.run(False, stop)
    return [
        pixels[:8] * torch.tensor(clip.preprocessing.std).view(1, 3, 1, 1)
        + torch.tensor(clip.preprocessing.mean).view(1, 3, 1, 1)
        for pixels, clip in zip(seen, (teacher, student), strict=True)
    ]


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(images: Images, tmp_path: Path) -> None:
    settings, state = PretrainSettings(steps=12, batch=4), tmp_path / "x.state"
    whole, resumed = nano(), nano()
    Pretraining(whole, [(images, 1.0)], settings).run(False, nothing)

    def stop(step: int, loss: float) -> None:
        if step == 7:
            raise Stop

    with pytest.raises(Stop):
        Pretraining(resumed, [(images, 1.0)], settings, state=state).run(False, stop)
    again, heard = nano(), []
    Pretraining(again, [(images, 1.0)], settings, state=state).run(True, lambda step, _: heard.append(step))
    assert heard == [8, 9, 10, 11, 12]
    visual: dict[str, torch.Tensor] = whole.model.visual.state_dict()  # type: ignore[union-attr, operator]
    for name, value in again.model.visual.state_dict().items():  # type: ignore[union-attr, operator]
        torch.testing.assert_close(value, visual[name], atol=1e-5, rtol=1e-4)


def test_a_state_of_another_run_is_refused(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "x.state"
    run = Pretraining(nano(), [(images, 1.0)], PretrainSettings(steps=12, batch=4), state=state)

    def stop(step: int, loss: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        run.run(False, stop)
    other = Pretraining(nano(), [(images, 1.0)], PretrainSettings(steps=12, batch=4, seed=1), state=state)
    with pytest.raises(ParameterError, match=r"other settings \(seed\)"):
        other.run(True, nothing)
    taught = Pretraining(
        replace(nano(), taught=True), [(images, 1.0)], PretrainSettings(steps=12, batch=4), state=state
    )
    with pytest.raises(ParameterError, match=r"other settings \(pretrained\)"):
        taught.run(True, nothing)
    other_start, turned = nano(), Images(images.frames[:, ::-1], images.targets)
    with torch.no_grad():
        next(other_start.model.parameters()).add_(1)
    for clip, pool, teacher, word in (
        (nano(grey=True), images, None, "preprocessing"),
        (other_start, images, None, "pretrained"),
        (nano(), turned, None, "images"),
        (nano(), images, nano(), "teacher"),
    ):
        differing = Pretraining(clip, [(pool, 1.0)], PretrainSettings(steps=12, batch=4), teacher, state)
        with pytest.raises(ParameterError, match=rf"other settings \({word}\)"):
            differing.run(True, nothing)
    state.write_bytes(b"nothing")
    with pytest.raises(ParameterError, match="cannot be read"):
        other.run(True, nothing)


@pytest.mark.long
def test_a_teacher_overrules_labels_that_say_nothing(images: Images) -> None:
    flat = Images(images.frames, np.full((12, 7), 1 / 7, np.float32))
    teacher = nano()
    Pretraining(teacher, [(images, 1.0)], PretrainSettings(steps=20, batch=8, average=0.5)).run(False, nothing)
    heard: dict[bool, float] = {}
    for taught in (False, True):
        run = Pretraining(nano(), [(flat, 1.0)], PretrainSettings(steps=10, batch=8), teacher if taught else None)
        run.run(False, lambda step, loss: heard.setdefault(taught, loss))  # noqa: B023
    assert heard[False] != heard[True]


@pytest.mark.usefixtures("whole_text_fit")
def test_a_teacher_may_be_of_another_size_and_kind(images: Images) -> None:
    """It must overrule: with its word alone, a nano says after a few steps what the transformer says."""
    torch.manual_seed(3)
    teacher = build_clip(ClipSizes(64, 64, 16, 64, 1, 77, 49408, 64, 1))
    fit_text(teacher, torch.eye(teacher.width)[:7])
    with torch.no_grad():  # of random weights one class is always the likeliest; let that be sure
        teacher.model.logit_scale.fill_(np.log(100))  # type: ignore[operator, union-attr]
    student = nano()
    settings = PretrainSettings(steps=30, batch=8, average=0.5, teacher=1, mixup=0, hands=0)
    Pretraining(student, [(images, 1.0)], settings, teacher).run(False, nothing)
    told, learned = classify(teacher, images), classify(student, images)
    assert told.max(axis=1).mean() > 0.8
    assert (told.argmax(axis=1) == learned.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("own_grey", [False, True])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mean", [None, (0.5, 0.4, 0.3)])
def test_a_teacher_sees_images_as_it_was_taught_to(
    images: Images, own_grey: bool, grey: bool, mean: tuple[float, float, float] | None
) -> None:
    student, teacher = nano(own_grey), nano(grey)
    own = student.preprocessing
    if mean is not None:
        teacher = replace(teacher, preprocessing=replace(own, mean=mean, std=(0.3, 0.2, 0.1), grey=grey))
    told, learned = shown_to(teacher, student, images, hands=0)
    assert told.shape == learned.shape
    if grey:
        learned = (learned * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    if own_grey:
        assert grey or told.std(dim=1).max() > 0.01, "the teacher should see colour"
        told = (told * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(told, learned, atol=1e-5, rtol=0)


def test_the_student_sees_hands_before_faces_and_the_teacher_does_not(images: Images) -> None:
    told, learned = shown_to(nano(), nano(), images, hands=1)
    covered = ((told - learned).abs() > 1e-3).any(dim=1)
    size = covered.shape[-1]
    assert covered[:, : size // 3].float().mean() < 0.02
    assert (covered[:, size // 2 :].flatten(1).float().mean(dim=1) > 0.03).float().mean() >= 0.7


@pytest.mark.usefixtures("whole_text_fit")
def test_taught_weights_go_on_towards_the_same_vectors(images: Images, tmp_path: Path) -> None:
    first = nano()
    run = Pretraining(first, [(images, 1.0)], PretrainSettings(steps=10, batch=8))
    run.run(False, nothing)
    save_weights(first, tmp_path / "first.pt")
    again = Pretraining(
        load_clip("dfer-nano", str(tmp_path / "first.pt")), [(images, 1.0)], PretrainSettings(steps=10, batch=8, seed=5)
    )
    assert ((again.vectors * run.vectors).sum(dim=1) > 0.95).all()
    assert run.size(1) == 48 and again.size(1) == 64  # only what begins at random begins with small views


def test_a_loss_that_is_no_number_ends_the_run(images: Images) -> None:
    clip = nano()
    with torch.no_grad():
        next(clip.model.visual.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(DferError, match="the loss is nan"):
        Pretraining(clip, [(images, 1.0)], PretrainSettings(steps=10, batch=2)).run(False, nothing)


def test_images_are_classified_by_probabilities(images: Images) -> None:
    clip = nano()
    found = classify(clip, images)
    assert found.shape == (12, len(EXPRESSIONS))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    with torch.no_grad():
        clip.model.logit_scale.fill_(np.log(100))  # type: ignore[operator, union-attr]
    assert classify(clip, images).max() > found.max()  # the learned scale says how sure it is


def test_shares_of_photographs_may_make_up_all() -> None:
    shares = [
        argument for share in ("0.33", "0.56", "0.11") for argument in ("--stills", "no.csv", "--stills-share", share)
    ]
    refused = CliRunner().invoke(main, ["faces.pt", "--clip", "dfer-nano", *shares])
    assert "no.csv" in refused.output and "--stills-share" not in refused.output
    too_many = CliRunner().invoke(main, ["faces.pt", *shares[:-1], "0.12"])
    assert "--stills-share: give as many as --stills, which together are at most 1" in too_many.output


def test_a_table_with_train_and_test_alone_is_tested_on_test(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dfer-prepare --photos leaves FER2013, before it names this command as the next."""
    rows = ["image,label,person,split"]
    for index, frame in enumerate(images.frames):
        cv2.imwrite(str(tmp_path / f"{index}.png"), frame)
        rows.append(f"{index}.png,{EXPRESSIONS[index % 7]},,{'test' if index > 9 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    call: list[Any] = [tmp_path / "faces.pt", "--clip", "dfer-nano", "--identities", 2, "--steps", 10, "--batch", 10]
    call += ["--workers", 1]
    for share in (0.7, 0.2, 0.1):  # whose sum is a little less than 1 for Python
        call += ["--stills", tmp_path / "labels.csv", "--stills-share", share]
    resumable = []

    def saving(*arguments: Any) -> None:
        state = torch.load(tmp_path / "faces.state")
        resumable.append(len(state["identity"]["images"]))
        save_weights(*arguments)

    monkeypatch.setattr("dfer.train.models.clip.save_weights", saving)
    printed = CliRunner().invoke(main, [str(argument) for argument in call])
    assert printed.exit_code == 0, printed.output
    assert "labels.csv, split test: 2 images" in printed.output
    assert resumable == [3]  # until the weights are safe; no fourth part of drawn faces
    assert not (tmp_path / "faces.state").exists()
