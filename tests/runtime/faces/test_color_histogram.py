"""Looks: one person stays like themself and unlike others."""

from __future__ import annotations

import numpy as np

from dfer.runtime.faces.color_histogram import color_histogram, hellinger_distance
from dfer.runtime.procedural import ActionUnits, Identity, Pose, draw_face


def portrait(seed: int, x: float = 100, smile: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    image = np.full((200, 240, 3), 150, np.uint8)
    who = Identity.sample(np.random.default_rng(seed))
    draw_face(image, who, ActionUnits(mouth_corner=smile), Pose(yaw), (x, 100), 110)
    return image


def test_a_person_who_moves_turns_and_smiles_looks_the_same() -> None:
    for seed in range(6):
        rest = color_histogram(portrait(seed), (60, 45, 80, 110))
        changed = color_histogram(portrait(seed, 130, 1.0, 15), (90, 45, 80, 110))
        assert rest is not None and changed is not None
        assert hellinger_distance(rest, changed) < 0.25


def test_difference_is_a_distance_from_0_to_1() -> None:
    black, white = (color_histogram(np.full((50, 50, 3), value, np.uint8), (0, 0, 50, 50)) for value in (0, 255))
    assert black is not None and white is not None
    assert hellinger_distance(black, black) == 0
    assert abs(hellinger_distance(black, white) - 1) < 1e-6
    assert black.dtype == np.float32 and abs(black.sum() - 1) < 1e-6


def test_a_box_outside_the_picture_has_no_look() -> None:
    image = portrait(1)
    assert color_histogram(image, (500, 0, 40, 40)) is None
    assert color_histogram(image, (10, 10, 0, 0)) is None
    assert color_histogram(image, (-20, -20, 60, 60)) is not None
