"""Scores are those of the clips that have a counterpart, before and after the model's temperature."""

from __future__ import annotations

import numpy as np
import pytest
from clip_sets import NoiseClips
from numpy.typing import NDArray

from dfer.train.data.matching import match_classes
from dfer.train.evaluation import Model, evaluate


class PlainClips(NoiseClips):
    """Clips of one colour each: 10, 20, 30, …"""

    def __init__(self, *labels: str) -> None:
        super().__init__(len(labels))
        self.classes = tuple(dict.fromkeys(labels))
        self.labels = np.array([self.classes.index(label) for label in labels])

    def frames(self, index: int, rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
        return np.full((16, 40, 40, 3), 10 * (index + 1), np.uint8)


class ByColour(Model):
    """A stand-in for a model that has an answer to each colour, and keeps those it is shown."""

    size = 40

    def __init__(self, answers: dict[int, tuple[float, ...]], *classes: str, temperature: float = 1.0) -> None:
        self.answers, self.classes, self.temperature = answers, classes, temperature
        self.seen: list[int] = []

    def classify(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(int(frames[0, 0, 0, 0]))
        return np.array(self.answers[self.seen[-1]], np.float32)


def test_clips_after_one_that_is_left_out_are_scored_by_their_own_frames() -> None:
    clips = PlainClips("joy", "pain", "rage")
    model = ByColour({10: (0.9, 0.1), 20: (0.9, 0.1), 30: (0.1, 0.9)}, "joy", "rage")
    scores = evaluate(model, clips, matching=match_classes(clips, model.classes))
    assert (model.seen, scores.war) == ([10, 30], 1)


def test_the_calibration_error_is_told_with_and_without_the_temperature() -> None:
    model = ByColour(dict.fromkeys((10, 20, 30), (0.8, 0.1, 0.1)), "joy", "rage", "pain", temperature=2.0)
    scores = evaluate(model, PlainClips("joy", "joy", "joy"))
    assert scores.calibration_error == pytest.approx(0.2, abs=1e-4)
    assert scores.uncalibrated_error == pytest.approx(1 - 0.64 / 0.66, abs=1e-4)  # the square of each share
