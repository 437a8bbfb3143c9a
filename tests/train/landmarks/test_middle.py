"""The middle level in training: who learns from whom, what fuses, that it resumes, and that nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from clip_sets import FilmedNoise
from networks import SIZE, random_crops

from dfer.export.graphs import trace_method
from dfer.runtime.errors import ParameterError
from dfer.runtime.labels import EXPRESSIONS
from dfer.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint, save_trained
from dfer.train.cli.train import main as train
from dfer.train.data import Batch
from dfer.train.data.batches import PixelBatches, Sampling
from dfer.train.data.choice import DataChoice
from dfer.train.fabric import start_fabric
from dfer.train.landmarks.middle import Middle, distil, run_with
from dfer.train.landmarks.pictures import draw_pictures
from dfer.train.landmarks.reading import LandmarkedClips, Landmarks
from dfer.train.methods.finecliper import FineCliper
from dfer.train.methods.phases import Plan
from dfer.train.models.clip import Clip, ClipSizes, build_clip
from dfer.train.options import TrainOptions
from dfer.train.run import run_training
from dfer.train.training import Epoch, Trainer, TrainSettings

PLAN = Plan((2,), (1e-3,), (1,))


def tiny_clip(*names: object, **options: object) -> Clip:
    torch.manual_seed(0)
    return build_clip(ClipSizes(64, SIZE, 8, 64, 2, 77, 49408, 64, 1))


def make(**options: Any) -> FineCliper:
    clip = tiny_clip()
    return disturb(FineCliper.from_options(clip, EXPRESSIONS, PLAN, **{"middle": "distil", **options})).train()


def disturb(method: FineCliper) -> FineCliper:
    """Adapters and gate as after training: no longer zero. Alike in models with and without a middle level."""
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if ".up." in name or name.endswith(".out") or "gate" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return method


def batch(told: tuple[bool, ...] = (True, True, False)) -> Batch:
    inputs = torch.from_numpy(np.stack([random_crops(4, seed=n) for n in range(3)])).repeat(1, 4, 1, 1, 1)
    points = np.random.default_rng(0).uniform(4, SIZE - 4, (3, 16, 68, 2)).astype(np.float32)
    pictures = torch.from_numpy(np.stack([draw_pictures(one, SIZE) for one in points]))
    for place, one in enumerate(told):
        if not one:
            pictures[place] = 0
    return Batch(inputs, torch.tensor([0, 1, 2]), ["0", "1", "2"], pictures=pictures)


def gradients(method: FineCliper, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    method.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None}


def parts_of(method: FineCliper, given: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle level's two losses, unweighted: its own, and the KL divergence."""
    features = method.encode_clips(given.inputs)
    matrix = method.class_matrix()
    logits = method.compare(method.pool(features), matrix)

    def both(weight: float) -> torch.Tensor:
        method._middle_weight = weight
        assert method.middle is not None
        return method._learn_from_pictures(method.middle, given, features, logits, matrix, None)

    one, two = both(1.0), both(2.0)
    return 2 * one - two, two - one


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
def test_the_student_learns_from_the_teacher_and_not_the_other_way_round(adapter: str) -> None:
    method = make(adapter=adapter)
    own, taught = parts_of(method, batch())
    reached = {name for name, value in gradients(method, own).items() if value.abs().max() > 1e-9}
    assert {name.split(".")[0] for name in reached} == {"middle"}
    assert {name.split(".")[1] for name in reached} == {"adapters", "gate"}
    assert {name.split(".")[2] for name in reached if "adapters" in name} == {"0", "1"}
    own, taught = parts_of(method, batch())
    reached = {name for name, value in gradients(method, taught).items() if value.abs().max() > 1e-9}
    assert {name.split(".")[0] for name in reached} == {"image_adapters", "text_adapters", "temporal"}


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_loss_is_the_classes_plus_what_clips_with_pictures_teach(weight: float) -> None:
    method, plain, given = make(middle_weight=weight), make(middle=None), batch()
    with torch.no_grad():
        own, taught = parts_of(method, given)
        method._middle_weight = weight
        assert taught > 0
        wanted = plain.loss(given, None, None) + own + weight * taught
        torch.testing.assert_close(method.loss(given, None, None), wanted)
        only_two = Batch(given.inputs[:2], given.labels[:2], ["0", "1"], pictures=given.pictures[:2])  # type: ignore[index]
        torch.testing.assert_close(parts_of(method, only_two), (own, taught))  # the third, without any, does not count
        method._middle_weight = weight
        for nothing in (batch((False,) * 3), Batch(given.inputs, given.labels, given.names)):
            torch.testing.assert_close(method.loss(nothing, None, None), plain.loss(nothing, None, None))
    used = gradients(method, method.loss(batch((False,) * 3), None, None))
    assert any(name.startswith("middle.") for name in used)  # as several processes need it
    assert not any(value.any() for name, value in used.items() if name.startswith("middle."))


def test_divergence_is_of_the_told_clips_and_zero_where_both_agree() -> None:
    student = torch.randn(4, 7, requires_grad=True)
    teacher = torch.randn(4, 7, requires_grad=True)
    told = torch.tensor([True, False, True, False])
    found = distil(student, teacher, told)
    pairs = [(teacher[row].softmax(-1), student[row].softmax(-1)) for row in (0, 2)]
    torch.testing.assert_close(found, sum((p * (p / q).log()).sum() for p, q in pairs) / 2)
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert not student.grad[[1, 3]].any()
    assert distil(student, student, told) == 0


def test_the_gate_leaves_out_pictures_that_are_not_there() -> None:
    torch.manual_seed(0)
    middle = Middle([torch.nn.ModuleList(), torch.nn.ModuleList()], 8)
    frames, features = torch.randn(2, 3, 8), torch.randn(2, 3, 2, 8)
    drawn = torch.ones(2, 3, 2, dtype=torch.bool)
    drawn[0, 1] = False
    drawn[1, 2, 1] = False
    fused = middle.fuse(frames, features, drawn)
    torch.testing.assert_close(fused[0, 0], (frames[0, 0] + features[0, 0].sum(0)) / 3)  # alike at first
    torch.testing.assert_close(fused[0, 1], frames[0, 1])
    torch.testing.assert_close(fused[1, 2], (frames[1, 2] + features[1, 2, 0]) / 2)


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
def test_pictures_are_read_by_the_tower_with_their_own_adapters(adapter: str) -> None:
    """As if those adapters were in the tower; and alike, gradients too, where activations are computed twice."""
    found = []
    for checkpointing in (False, True):
        method = make(adapter=adapter, checkpointing=checkpointing, ratio=0.5)
        assert method.middle is not None
        pixels = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        features = run_with(method.image_encoder, method.image_adapters, method.middle.adapters[1], pixels, 2)
        features.sum().backward()
        grads = [value.grad.clone() for value in method.middle.adapters[1].parameters() if value.grad is not None]
        assert all(value.grad is None for value in method.image_adapters.parameters())
        found.append((features.detach(), grads))
        method.zero_grad()
        mine = method.image_encoder(pixels)
        assert (mine - features).abs().max() > 1e-3
        other = FineCliper.from_options(tiny_clip(), EXPRESSIONS, PLAN, adapter=adapter, ratio=0.25).eval()
        other.image_adapters.load_state_dict(method.middle.adapters[1].state_dict())
        torch.testing.assert_close(other.image_encoder(pixels), features)
    torch.testing.assert_close(*found)


def test_a_vit_b_16_has_13_million_parameters_to_train_and_20_with_the_middle_level() -> None:
    sizes: dict[str | None, int] = {}
    for middle in (None, "distil"):
        with torch.device("meta"):  # sizes alone
            clip = build_clip(ClipSizes(512, 224, 16, 768, 12, 77, 49408, 512, 12))
        model = FineCliper.from_options(clip, EXPRESSIONS, PLAN, middle=middle)
        (phase,) = model.phases(PLAN)
        sizes[middle] = sum(p.numel() for n, p in model.named_parameters() if phase.group_of(n) is not None)
    assert 12e6 < sizes[None] < 13e6
    assert 19e6 < sizes["distil"] < 21e6


def landmarked(count: int = 14) -> LandmarkedClips:
    clips = FilmedNoise(count)
    rng = np.random.default_rng(1)
    points = {name: rng.uniform(0.2, 0.8, (16, 68, 2)).astype(np.float32) for name in clips.names[: count - 3]}
    points[clips.names[0]][4:6] = np.nan
    return LandmarkedClips(clips, np.arange(count), Landmarks(points))


def trainer_of(method: FineCliper, state: Path) -> Trainer:
    clips = landmarked()
    training = PixelBatches([(clips, 1.0)], clips.classes, SIZE, "strong", sampling=Sampling(batch=7))
    return Trainer(method, method.phases(PLAN), training, training, TrainSettings(), start_fabric("fp32"), state, {})


@pytest.mark.long
def test_an_interrupted_run_resumes_to_the_same_weights_of_both(tmp_path: Path) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    whole = make()
    trainer_of(whole, tmp_path / "whole").run(False)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(make(), tmp_path / "state").run(False, stop)
    resumed = make()
    with torch.no_grad():
        assert resumed.middle is not None
        resumed.middle.gate.weight.normal_()  # comes from the state
    trainer_of(resumed, tmp_path / "state").run(True)
    before, after = make().state_dict(), resumed.state_dict()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    for part in ("middle.gate.weight", "middle.adapters.1.0.serial.up.weight", "image_adapters.0.serial.up.weight"):
        assert not torch.equal(before[part], after[part])


def test_batches_have_pictures_of_the_very_views(tmp_path: Path) -> None:
    clips = landmarked()
    (first, *_) = PixelBatches([(clips, 1.0)], clips.classes, SIZE, "strong", sampling=Sampling(batch=7)).random(
        np.random.default_rng(0)
    )
    assert first.pictures is not None
    assert first.pictures.shape == (7, 16, 2, SIZE, SIZE, 3)
    told = first.pictures.flatten(1).any(dim=1)
    assert told.tolist() == [int(name) < 11 for name in first.names]
    plain = PixelBatches([(FilmedNoise(14), 1.0)], clips.classes, SIZE, "strong", sampling=Sampling(batch=7))
    (same, *_) = plain.random(np.random.default_rng(0))
    assert torch.equal(same.inputs, first.inputs)  # landmarks change nothing of what the student sees
    assert same.pictures is None


@pytest.mark.long
def test_checkpoint_and_graphs_have_nothing_of_it(tmp_path: Path) -> None:
    method, plain = make(), make(middle=None)
    phases = method.phases(PLAN)
    save_checkpoint(method, tmp_path / "fine.pt", {})
    save_checkpoint(plain, tmp_path / "plain.pt", {})
    save_trained(method, method.trained_state(phases), tmp_path / "fine.last.pt", {}, tmp_path / "fine.pt")
    states = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("fine", "plain")]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    assert states[0]["config"] == states[1]["config"]
    traced = []
    for name in ("fine", "plain", "fine.last"):
        again, _ = load_checkpoint(tmp_path / f"{name}.pt")
        assert isinstance(again, FineCliper)
        assert again.middle is None
        graphs = trace_method(again)
        traced.append([_outline(graph) for graph in (graphs.encoder.onnx, graphs.head)])
    assert traced[0] == traced[1] == traced[2]


def _outline(graph: bytes) -> tuple[list[str], list[str]]:
    loaded = onnx.load_from_string(graph).graph
    return [one.name for one in (*loaded.input, *loaded.output)], [node.op_type for node in loaded.node]


def test_options_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    for options, words in (
        ({"adapter": "none"}, "middle: reads pictures through adapters in the image tower"),
        ({"middle": "fuse"}, "middle: 'fuse' is not one of distil"),
        ({"middle_weight": 0.0}, "middle_weight: 0.0 must be positive"),
    ):
        with pytest.raises(ParameterError, match=words):
            make(**options)
    out, marks = tmp_path / "x.pt", tmp_path / "marks.npz"
    marks.write_bytes(b"")
    for given, words in (
        ({"landmarks": marks}, "landmarks: landmarks serve the middle level only"),
        ({"landmark_model": marks}, "landmark_model: landmarks serve the middle level only"),
        ({"landmarks": tmp_path / "no.npz", "middle": "distil"}, "landmarks: .*no.npz: no such file"),
        ({"landmarks": marks, "landmark_model": marks, "middle": "distil"}, "leave one out"),
        ({"middle": "distil"}, "middle: not an option of align-dfer"),
    ):
        with pytest.raises(ParameterError, match=words):
            run_training(TrainOptions(out, method="align-dfer", **given))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("x.*"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """`dfer-train` with FineCLIPER on a small ViT, for which open_clip has no name."""
    monkeypatch.setattr("dfer.train.run.load_clip", tiny_clip)

    def call(out: str, *arguments: object) -> Result:
        basic = [tmp_path / out, "--method", "finecliper", "--epochs", 1, "--batch", 7, "--validation", 0.5]
        return CliRunner().invoke(train, [str(argument) for argument in (*basic, "--workers", 1, *arguments)])

    return call


def test_drawn_people_teach_from_the_command(tmp_path: Path, call: Callable[..., Result]) -> None:
    result = call("fine.pt", "--identities", 2, "--middle", "distil", "--middle-weight", 0.25, "--captions", "drawn")
    assert result.exit_code == 0, result.output
    assert "landmarks: 7 of 7 clips to train on have some, 0 have none; 0 of 112 frames have none" in result.output
    _, training = load_checkpoint(tmp_path / "fine.pt")
    assert training["middle"]["weight"] == 0.25
    assert len(training["middle"]["sha256"]) == 64
    assert not (tmp_path / "fine.state").exists()


def test_clips_on_disk_take_a_file_or_the_detector(tmp_path: Path, call: Callable[..., Result]) -> None:
    faces, marks = tmp_path / "faces", {}
    for clip in ("fear/1", "fear/2", "anger/3", "anger/4"):
        (faces / clip).mkdir(parents=True)
        cv2.imwrite(str(faces / clip / "0.png"), np.full((48, 48, 3), 90, np.uint8))
        marks[clip] = np.random.default_rng(0).uniform(0.2, 0.8, (1, 478, 2))
    data = ["--data", "folder", "--root", faces, "--middle", "distil"]
    result = call("a.pt", *data)
    assert result.exit_code == 1
    assert "landmarks: none of the 2 clips to train on has any" in result.output
    assert not (tmp_path / "a.pt").exists()
    np.savez(tmp_path / "marks.npz", **marks)
    result = call("b.pt", *data, "--landmarks", tmp_path / "marks.npz")
    assert result.exit_code == 0, result.output
    assert "landmarks: 2 of 2 clips to train on have some, 0 have none; 0 of 2 frames have none" in result.output
    marks["fear/1"] = marks["fear/2"] = marks["anger/3"] = np.zeros((3, 478, 2))
    np.savez(tmp_path / "marks.npz", **marks)
    result = call("c.pt", *data, "--landmarks", tmp_path / "marks.npz")
    assert result.exit_code == 1
    assert "has landmarks of 3 frames, and not as many frames" in result.output
    result = call("d.pt", *data, "--landmark-model", tmp_path / "marks.npz")
    assert result.exit_code == 1
    assert "--landmark-model" in result.output
    assert "is no model of 468 landmarks" in result.output


def test_a_state_of_other_landmarks_is_not_gone_on_from(
    tmp_path: Path, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.train.run.load_clip", tiny_clip)
    options = TrainOptions(
        tmp_path / "fine.pt",
        DataChoice(identities=2, workers=1),
        method="finecliper",
        middle="distil",
        epochs=(2,),
        batch=7,
        validation=0.5,
    )
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dfer.train.epoch_log.EpochLog.write", _interrupt)
        run_training(options)
    assert (tmp_path / "fine.state").is_file()
    result = call("fine.pt", "--identities", 2, "--epochs", 2, "--resume")
    assert result.exit_code == 1
    assert "was begun with other settings" in result.output
    result = call("fine.pt", "--identities", 2, "--epochs", 2, "--middle", "distil", "--resume")
    assert result.exit_code == 0, result.output


def _interrupt(_: object, epoch: Epoch) -> None:
    if epoch.number == 2:
        raise KeyboardInterrupt
