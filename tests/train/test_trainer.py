"""The loop: it learns, chooses the best epoch, goes on after an interruption as if there had been none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_sets import NoiseClips
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from dfer.runtime.errors import DferError
from dfer.train.data.batches import FeatureBatches, PixelBatches, Sampling, sampling_probabilities
from dfer.train.data.features import FeatureSet
from dfer.train.fabric import start_fabric
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.dfer_clip import DferClip
from dfer.train.methods.method import SMOOTHING, Batch, cross_entropies
from dfer.train.methods.phases import Phase, Plan, two_drops
from dfer.train.models.clip import load_clip
from dfer.train.models.prompts import DescribedPrompts
from dfer.train.training import Epoch, Trainer, TrainSettings

CLASSES = ("one", "two", "three")
PLAN = Plan((2, 2, 2), (0.05, 0.05, 0.05), (1, 2, 2))


def drawn_features(count: int, seed: int, width: int = 64) -> FeatureSet:
    """Features that show their class: each class has its own direction, blurred by noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(99).normal(size=(3, width))
    features = centres[labels][None, :, None] + rng.normal(0, 1.5, (2, count, 16, width))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    return FeatureSet(features.astype(np.float16), np.arange(count), labels, [f"clip {n}" for n in range(count)])


class Interruption(Exception):
    pass


def train(
    folder: Path,
    resume: bool = False,
    stop_after: int = 10**6,
    fabric: Fabric | None = None,
    plan: Plan = PLAN,
    batch: int = 16,
    **settings: object,
) -> tuple[AlignDfer, list[Epoch]]:
    """A small run; raises Interruption once the state after `stop_after` epochs is saved: at a step's end or later."""
    torch.manual_seed(0)
    method = AlignDfer(load_clip("dfer-nano"), CLASSES, tokens=2, video_layers=2)
    sampling = Sampling(batch=batch)
    trainer = Trainer(
        method,
        method.phases(plan),
        FeatureBatches([(drawn_features(64, 1), 1.0)], sampling),
        FeatureBatches([(drawn_features(30, 2), 1.0)], sampling),
        TrainSettings(**settings),  # type: ignore[arg-type]
        fabric or start_fabric("fp32"),
        folder / "run.state",
        {"settings": str(settings)},
    )
    seen: list[Epoch] = []
    best: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) > stop_after:
            raise Interruption

    def on_step(epoch: Epoch) -> None:
        if len(seen) == stop_after:
            raise Interruption
        best.append(epoch)

    trainer.run(resume, on_epoch, on_step)
    assert trainer.results[-len(best) :] == best
    return method, trainer.results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[AlignDfer, list[Epoch]]:
    return train(tmp_path_factory.mktemp("whole"))


def test_clips_of_all_processes_calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = AlignDfer(load_clip("dfer-nano"), CLASSES, tokens=2, video_layers=1)
    batches = FeatureBatches([(drawn_features(20, 2), 1.0)], Sampling(batch=8))
    trainer = Trainer(method, [], batches, batches, TrainSettings(), start_fabric("fp32"), tmp_path / "s", {})
    assert trainer.calibrate() is None

    def gather(parts: list[object], own: object) -> None:
        parts[:] = [own, own]

    monkeypatch.setattr(Fabric, "world_size", 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    calibration = trainer.calibrate()
    assert calibration is not None and calibration.clips == 40


def test_every_step_reports_its_best_epoch_and_learns(undisturbed: tuple[AlignDfer, list[Epoch]]) -> None:
    _, best = undisturbed
    assert [epoch.step for epoch in best] == ["1-text", "2-video", "3-joint"]
    assert best[-1].war > 0.8
    assert best[1].number == 2  # a step's best epoch has all its layers


@pytest.mark.parametrize("stop_after", [1, 2, 3, 6])
def test_a_resumed_run_ends_as_an_undisturbed_one(
    undisturbed: tuple[AlignDfer, list[Epoch]], tmp_path: Path, stop_after: int
) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop_after=stop_after)
    method, best = train(tmp_path, resume=True)
    wanted, best_wanted = undisturbed
    assert best == best_wanted
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, method.state_dict()[name]), name


def test_averaged_weights_survive_an_interruption(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wanted, _ = train(tmp_path / "a", ema=0.9)
    with pytest.raises(Interruption):
        train(tmp_path / "b", stop_after=3, ema=0.9)
    method, _ = train(tmp_path / "b", resume=True, ema=0.9)
    torch.testing.assert_close(wanted.video_side.state_dict(), method.video_side.state_dict())


def test_running_statistics_are_averaged_with_the_weights(tmp_path: Path) -> None:
    def train_tower(folder: Path, resume: bool = False, stop_after: int = 9) -> DferClip:
        torch.manual_seed(0)
        clip, clips = load_clip("dfer-nano", crop_size=48), NoiseClips(21)
        method = DferClip(clip, DescribedPrompts.from_sentences(clip, list(clips.classes)))
        batches = PixelBatches([(clips, 1.0)], clips.classes, 48, "paper", sampling=Sampling(batch=7))
        phases = [Phase("tower", 3, {"clip_model.visual": 0.1}, two_drops, trains_text=False)]
        fabric, settings = start_fabric("fp32"), TrainSettings(ema=0.9)
        trainer = Trainer(method, phases, batches, batches, settings, fabric, folder / "run.state", {})

        def on_epoch(epoch: Epoch) -> None:
            if epoch.number > stop_after:
                raise Interruption

        trainer.run(resume, on_epoch)
        return method

    (tmp_path / "cut").mkdir()
    wanted = train_tower(tmp_path).state_dict()
    with pytest.raises(Interruption):
        train_tower(tmp_path / "cut", stop_after=1)
    torch.testing.assert_close(train_tower(tmp_path / "cut", resume=True).state_dict(), wanted)
    state = torch.load(tmp_path / "run.state")
    statistics = [name for name in state["weights"] if name.endswith("running_var")]
    assert statistics
    for name in statistics:  # of what was scored, not of the last steps' weights
        assert not torch.equal(state["best"][1][name], state["weights"][name])


def test_the_scale_of_fp16_gradients_survives_an_interruption(tmp_path: Path) -> None:
    def half() -> tuple[Fabric, torch.amp.GradScaler]:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=5)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler)), scaler

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    fabric, wanted = half()
    train(tmp_path / "whole", fabric=fabric)
    fabric, scaler = half()
    with pytest.raises(Interruption):
        train(tmp_path / "cut", stop_after=2, fabric=fabric)
    assert scaler.get_scale() == 128.0  # it has grown once, and has gone three steps towards the next time
    fabric, scaler = half()
    train(tmp_path / "cut", resume=True, fabric=fabric)
    assert scaler.state_dict() == wanted.state_dict()


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop_after=1)
    with pytest.raises(DferError, match=r"begun with other settings \(settings\)"):
        train(tmp_path, resume=True, class_weights=True)
    (tmp_path / "run.state").write_bytes(b"junk")
    with pytest.raises(DferError, match=r"resume: .*run\.state cannot be read, or train without"):
        train(tmp_path, resume=True)


def test_training_leaves_clip_as_it_was(undisturbed: tuple[AlignDfer, list[Epoch]]) -> None:
    torch.manual_seed(0)
    before = AlignDfer(load_clip("dfer-nano"), CLASSES, tokens=2).clip_model.state_dict()
    after = undisturbed[0].clip_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_probabilities_balance_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    for balance, share in ((0, 0.1), (1, 0.5), (0.5, 0.25)):
        assert sampling_probabilities(labels, balance)[labels == 1].sum() == pytest.approx(share)


def test_how_often_classes_are_drawn_is_known_beforehand() -> None:
    rows = drawn_features(100, 1)
    common = FeatureSet(rows.features, rows.rows, np.array([0] * 90 + [2] * 10), rows.names)
    other = FeatureSet(rows.features, rows.rows, np.ones(100, np.int64), rows.names)
    batches = FeatureBatches([(common, 0.75), (other, 0.25)], Sampling(batch=80, balance=0.5))
    rng = np.random.default_rng(0)
    drawn = torch.cat([batch.labels for _ in range(40) for batch in batches.random(rng)])
    assert batches.frequency == pytest.approx([0.5625, 0.25, 0.1875])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), batches.frequency, atol=0.02)


def test_class_weights_say_how_much_a_clip_counts_and_not_what_it_is_drawn_to() -> None:
    labels, weights = torch.tensor([0, 1]), torch.tensor([1.0, 5.0, 900.0])
    wanted = torch.eye(3)[labels] * (1 - SMOOTHING) + SMOOTHING / 3
    logits = wanted.log().requires_grad_()
    batch = Batch(torch.zeros(2), labels, ["a", "b"])
    losses = cross_entropies(logits, batch, weights)
    torch.testing.assert_close(losses, cross_entropies(logits, batch, None) * torch.tensor([1.0, 5.0]))
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5  # the best answer is the one without weights


def test_a_run_of_one_step_trains(tmp_path: Path) -> None:
    _, best = train(tmp_path, plan=Plan((1, 1, 1), (0.05, 0.05, 0.05), (1, 2, 2)), batch=64)
    assert all(epoch.learning_rate > 0.02 for epoch in best)


def test_batches_take_their_share_of_each_source_and_order_covers_all() -> None:
    sampling = Sampling(batch=20, balance=0)
    first, second = drawn_features(40, 1), drawn_features(10, 2)
    only_zero = FeatureSet(second.features, second.rows, np.zeros(10, np.int64), second.names)
    only_one = FeatureSet(first.features, first.rows, np.ones(40, np.int64), first.names)
    batches = FeatureBatches([(only_one, 0.75), (only_zero, 0.25)], sampling)
    drawn = list(batches.random(np.random.default_rng(0)))
    assert len(drawn) == batches.steps == 2
    for batch in drawn:
        assert batch.inputs.shape == (20, 16, 64)
        assert int(batch.labels.sum()) == 15
    assert sum(len(batch.labels) for batch in batches.in_order()) == 50
    shards = [FeatureBatches([(first, 1.0)], Sampling(batch=4, rank=rank, world=2)) for rank in (0, 1)]
    names = [name for shard in shards for batch in shard.in_order() for name in batch.names]
    assert sorted(names) == sorted(first.names)


def test_a_process_with_one_clip_a_step_takes_one_of_each_source() -> None:
    few, many = drawn_features(9, 0), drawn_features(21, 1)
    sampling = Sampling(batch=2, world=2)
    (first, *_) = FeatureBatches([(few, 0.5), (many, 0.5)], sampling).random(np.random.default_rng(0))
    assert len(first.labels) == 2


def test_shifted_windows_repeat_their_edges() -> None:
    times = np.arange(16, dtype=np.float16)[None, None, :, None].repeat(4, axis=1)
    features = FeatureSet(times, np.arange(4), np.zeros(4, np.int64), list("abcd"))
    batch, *_ = FeatureBatches([(features, 1.0)], Sampling(4, shift=3)).random(np.random.default_rng(0))
    for clip in batch.inputs[:, :, 0]:
        steps = clip.diff()
        assert set(steps.tolist()) <= {0.0, 1.0}
        assert (steps == 0).sum() == 15 - (clip[-1] - clip[0])
        assert clip[0] == 0 or clip[-1] == 15


def test_windows_may_begin_with_the_end_of_another_clip() -> None:
    times = np.arange(16, dtype=np.float16)[None, None, :, None] + 100 * np.arange(4)[None, :, None, None]
    features = FeatureSet(times.astype(np.float16), np.arange(4), np.arange(4) % 2, list("abcd"))
    sampling = Sampling(64, balance=0, shift=0, history=0.5)
    batch, *_ = FeatureBatches([(features, 1.0)], sampling).random(np.random.default_rng(0))
    kept = 0
    for clip, name in zip(batch.inputs[:, :, 0], batch.names, strict=True):
        own = 100 * "abcd".index(name)
        assert clip[8:].tolist() == [own + time for time in range(8, 16)]
        changes = [place for place in range(1, 16) if clip[place] != clip[place - 1] + 1]
        kept += clip.tolist() == [own + time for time in range(16)]
        assert len(changes) <= 1
        if changes:
            assert clip[changes[0] - 1] % 100 == 15  # the other clip's end
    assert 20 <= kept <= 50


def test_windows_may_cover_a_part_of_a_clip() -> None:
    times = np.arange(16, dtype=np.float16)[None, None, :, None].repeat(4, axis=1)
    features = FeatureSet(times, np.arange(4), np.zeros(4, np.int64), list("abcd"))
    sampling = Sampling(64, shift=0, span=0.5)
    batch, *_ = FeatureBatches([(features, 1.0)], sampling).random(np.random.default_rng(0))
    lengths, ends = set(), set()
    for clip in batch.inputs[:, :, 0]:
        assert set(clip.diff().tolist()) <= {0.0, 1.0}
        lengths.add(float(clip[-1] - clip[0]))
        ends.add(float(clip[-1]))
    assert 7 <= min(lengths) <= 9 and max(lengths) >= 14
    assert 9 <= min(ends) <= 11 and max(ends) == 15


def test_pixel_batches_are_augmented_for_training_and_plain_in_order() -> None:
    clips = NoiseClips(6)
    batches = PixelBatches([(clips, 1.0)], clips.classes, 40, "paper", workers=2, sampling=Sampling(batch=3))
    epoch = list(batches.random(np.random.default_rng(0)))
    again = list(batches.random(np.random.default_rng(0)))
    assert [tuple(batch.inputs.shape) for batch in epoch] == [(3, 16, 40, 40, 3)] * 2
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(epoch, again, strict=True))
    for batch in epoch:
        assert batch.labels.tolist() == [clips.labels[int(name)] for name in batch.names]
    plain = torch.cat([batch.inputs for batch in batches.in_order()])
    assert torch.equal(plain, torch.from_numpy(np.stack([clips.frames(index) for index in range(6)])))


def test_a_diverging_run_says_what_to_do(tmp_path: Path) -> None:
    bad = drawn_features(48, 1)
    bad.features[:] = np.nan
    method = AlignDfer(load_clip("dfer-nano"), CLASSES, tokens=2, video_layers=1)
    batches = FeatureBatches([(bad, 1.0)], Sampling(batch=16))
    trainer = Trainer(
        method, method.phases(PLAN), batches, batches, TrainSettings(), start_fabric("fp32"), tmp_path / "s", {}
    )
    with pytest.raises(DferError, match="the loss is nan; lower"):
        trainer.run(False)
