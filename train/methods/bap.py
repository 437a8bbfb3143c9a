"""BAP, the bidirectional alignment training paradigm: text first, then video, then both through one synchronizer."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ..models.synchronizer import Synchronizer, TemporalMean
from .phases import Phase, Plan, warm_cosine


class TwoSided(Protocol):
    """A model that BAP can train: videos and class sentences go through one side each, or share one.

    window: T, which is also the number of sentences per class. width: D.
    """

    window: int
    video_side: nn.Module
    text_side: nn.Module

    @property
    def width(self) -> int: ...


STEPS = ("1-text", "2-video", "3-joint")
_INHERITED = 2  # layers of the video dynamic encoder that the synchronizer starts from


def bap_phases(method: TwoSided, plan: Plan) -> list[Phase]:
    """Return the three steps, with a phase for every layer that is added (Align-DFER, section on BAP).

    1. Video is the temporal mean; the tokens and a text dynamic encoder are trained.
    2. Both are frozen; a video dynamic encoder is trained, layer by layer.
    3. The synchronizer starts from the video encoder's first two layers and serves both sides; further layers are
       added one by one, and the tokens are trained with it.

    Our choices: schedules, learning rates, and that new layers start as identities. plan.depths: layers of the
    text encoder, the video encoder and the synchronizer.
    """
    text_layers, video_layers, joint_layers = plan.depths
    text_rate, video_rate, joint_rate = plan.learning_rates
    length, width = method.window, method.width
    phases: list[Phase] = []

    def begin_text() -> None:
        method.video_side = TemporalMean()
        method.text_side = Synchronizer.grown(length, width, text_layers)

    def begin_video() -> None:
        method.video_side = Synchronizer.grown(length, width, 1)

    def begin_joint() -> None:
        assert isinstance(method.video_side, Synchronizer)  # step 2 made it
        method.video_side = method.text_side = method.video_side.first_layers(min(_INHERITED, joint_layers))

    def grow() -> None:
        assert isinstance(method.video_side, Synchronizer)
        method.video_side.grow()

    rates = {"sentences": text_rate, "text_side": text_rate}
    phases.append(Phase(STEPS[0], plan.epochs[0], rates, warm_cosine, begin_text))
    for index, epochs in enumerate(_shares(plan.epochs[1], video_layers)):
        enter = grow if index else begin_video
        phases.append(Phase(STEPS[1], epochs, {"video_side": video_rate}, warm_cosine, enter, trains_text=False))
    rates = {"sentences": joint_rate, "video_side": joint_rate}
    inherited = min(_INHERITED, video_layers, joint_layers)
    for index, epochs in enumerate(_shares(plan.epochs[2], 1 + joint_layers - inherited)):
        phases.append(Phase(STEPS[2], epochs, rates, warm_cosine, grow if index else begin_joint))
    return phases


def _shares(epochs: int, parts: int) -> list[int]:
    """Divide epochs into equal parts; the last gets the remainder."""
    part = epochs // parts
    return [part] * (parts - 1) + [epochs - part * (parts - 1)]
