"""BAP: what each step trains, what it starts from, and how it grows."""

from __future__ import annotations

import pytest
import torch

from dfer.runtime.errors import DferError
from dfer.train.methods.align_dfer import AlignDfer
from dfer.train.methods.bap import STEPS
from dfer.train.methods.phases import Plan, adapt_plan, two_drops, warm_cosine
from dfer.train.models.clip import Clip, load_clip
from dfer.train.models.synchronizer import Synchronizer, TemporalMean


@pytest.fixture(scope="module")
def clip() -> Clip:
    torch.manual_seed(0)
    return load_clip("dfer-nano")


@pytest.fixture
def method(clip: Clip) -> AlignDfer:
    torch.manual_seed(1)
    return AlignDfer(clip, tokens=2, video_layers=3)


PLAN = Plan((4, 7, 9), (0.1, 0.2, 0.3), (1, 3, 4))


def test_steps_grow_layer_by_layer_within_their_epochs(method: AlignDfer) -> None:
    phases = method.phases(PLAN)
    assert [(phase.step, phase.epochs) for phase in phases] == [
        (STEPS[0], 4),
        *[(STEPS[1], 2), (STEPS[1], 2), (STEPS[1], 3)],
        *[(STEPS[2], 3), (STEPS[2], 3), (STEPS[2], 3)],
    ]
    depths = []
    for phase in phases:
        phase.enter()
        depths.append([len(side.layers) if isinstance(side, Synchronizer) else 0 for side in sides(method)])
    assert depths == [[0, 1], [1, 1], [2, 1], [3, 1], [2, 2], [3, 3], [4, 4]]


def sides(method: AlignDfer) -> tuple[torch.nn.Module, torch.nn.Module]:
    return method.video_side, method.text_side


def test_step_one_reads_video_as_its_mean_and_starts_text_there(method: AlignDfer) -> None:
    first = method.phases(PLAN)[0]
    first.enter()
    assert isinstance(method.video_side, TemporalMean)
    assert set(first.rates) == {"sentences", "text_side"}


def test_step_two_begins_where_step_one_ended(method: AlignDfer) -> None:
    phases = method.phases(PLAN)
    phases[0].enter()
    alike = torch.randn(5, 1, method.width) + torch.randn(5, 16, method.width)  # as the frames of one face are
    features = torch.nn.functional.normalize(alike, dim=-1)
    before = method.eval().logits(features)
    text = method.text_side
    phases[1].enter()
    assert method.text_side is text
    assert set(phases[1].rates) == {"video_side"}
    assert not phases[1].trains_text
    similar = torch.nn.functional.cosine_similarity(method.eval().logits(features), before)
    assert similar.min() > 0.9


def test_step_three_shares_the_first_two_video_layers(method: AlignDfer) -> None:
    phases = method.phases(PLAN)
    for phase in phases[:4]:
        phase.enter()
    video = method.video_side
    assert isinstance(video, Synchronizer)
    torch.nn.init.normal_(video.layers[1].from_heads.weight)
    phases[4].enter()
    assert method.video_side is method.text_side
    assert isinstance(method.video_side, Synchronizer)
    assert torch.equal(method.video_side.layers[1].from_heads.weight, video.layers[1].from_heads.weight)
    assert set(phases[4].rates) == {"sentences", "video_side"}


def test_ablations_are_one_phase(clip: Clip) -> None:
    (phase,) = AlignDfer(clip, tokens=2, single_step=True).phases(PLAN)
    assert (phase.epochs, set(phase.rates)) == (20, {"sentences", "video_side"})
    (phase,) = AlignDfer(clip, tokens=2, video_layers=None).phases(PLAN)
    assert (phase.epochs, set(phase.rates)) == (20, {"sentences"})


def test_schedules_begin_low_and_end_low() -> None:
    assert warm_cosine(0.05) == pytest.approx(0.5)
    assert warm_cosine(0.1) == pytest.approx(1)
    assert warm_cosine(1) == pytest.approx(0)
    assert [two_drops(epoch / 50) for epoch in (1, 29, 31, 39, 41, 50)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_plans_take_as_many_numbers_as_the_method_has_steps() -> None:
    assert adapt_plan(PLAN, (1, 2, 3), (), ()) == Plan((1, 2, 3), PLAN.learning_rates, PLAN.depths)
    with pytest.raises(DferError, match=r"epochs: this method takes 3 numbers \(default 4,7,9\)"):
        adapt_plan(PLAN, (1, 2), (), ())
