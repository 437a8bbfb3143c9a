"""Colours of classes can be told apart, whatever the classes are called."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from dfer.runtime.labels import EXPRESSIONS, MAFW_EXPRESSIONS
from dfer.runtime.outputs.palette import COLOURS, colour_of

EASY = 30.0  # in CIELAB, where 2.3 can just be seen side by side

OWN = [
    "frowning",
    "curious",
    "smiling",
    "bored",
    "calm",
    "excited",
    "confused",
    "tired",
    "amused",
    "proud",
    "shy",
    "joyful",
]


def difference(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """CIE76."""
    pair = np.array([[one, other]], np.float32) / 255
    first, second = cv2.cvtColor(pair, cv2.COLOR_RGB2LAB)[0]
    return float(np.linalg.norm(first - second))


@pytest.mark.parametrize(
    "classes", [OWN, [*EXPRESSIONS, *OWN], [*OWN[:5], *MAFW_EXPRESSIONS], ["positive", "happiness"]]
)
def test_no_two_classes_of_a_model_look_alike(classes: list[str]) -> None:
    shown = {name: colour_of(name, classes) for name in [*classes, "unsure"]}
    pairs = [
        pair for pair in combinations(shown, 2) if pair == ("positive", "happiness") or not COLOURS.keys() >= {*pair}
    ]
    assert not [pair for pair in pairs if difference(*(shown[name] for name in pair)) < EASY]


def test_expressions_have_the_same_colour_in_every_model() -> None:
    assert {name: colour_of(name, [*OWN, *MAFW_EXPRESSIONS]) for name in EXPRESSIONS} == {
        name: COLOURS[name] for name in EXPRESSIONS
    }


def test_a_hundred_classes_have_a_hundred_colours() -> None:
    classes = [*EXPRESSIONS, *(f"class {number}" for number in range(93))]
    assert len({colour_of(name, classes) for name in classes}) == 100
