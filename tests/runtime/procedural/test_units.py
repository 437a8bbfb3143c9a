"""Action units in words: what moves, which way, how strongly, and how it comes and goes; nothing of what it means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.procedural import ActionUnits
from dfer.runtime.procedural.expressions import ExpressionCurve
from dfer.runtime.procedural.units import describe_course, describe_units


def told(label: str, seed: int) -> str:
    curve = ExpressionCurve.sample(label, 2.0, np.random.default_rng(seed))
    return describe_course([curve.at(t)[0] for t in curve.times(8.0)])


def test_active_units_are_named_with_their_direction_and_strength() -> None:
    assert describe_units(ActionUnits(inner_brow=1, mouth_corner=-0.9, jaw_drop=0.1)) == (
        "the inner brows rise, the lip corners are pulled down"
    )
    assert describe_units(ActionUnits(mouth_corner=0.3)) == "the lip corners are pulled up slightly"
    assert describe_units(ActionUnits(outer_brow=-1, asymmetry=1)) == "the face hardly moves"


def test_every_unit_that_moves_the_face_has_words() -> None:
    for name in vars(ActionUnits()):
        one = describe_units(replace(ActionUnits(), **{name: 1.0}))
        assert (one == "the face hardly moves") == (name == "asymmetry"), name


@pytest.mark.parametrize(("label", "ending"), [("surprise", "fades slowly"), ("fear", "gone quickly")])
def test_a_course_and_its_reverse_have_the_same_units_and_other_endings(label: str, ending: str) -> None:
    captions = [told(label, seed) for seed in range(20)]
    assert sum(caption.endswith(ending) for caption in captions) >= 18
    assert all("the inner brows rise" in caption and "the outer brows rise" in caption for caption in captions)


def test_a_face_at_rest_has_no_course() -> None:
    assert describe_course([ActionUnits()] * 3) == "the face hardly moves"
    assert "first" not in describe_course([ActionUnits(gaze_x=x) for x in (0, 0.5, 0)])
    assert describe_course([ActionUnits(jaw_drop=0.3)]) == "the jaw drops slightly, to the end"


@pytest.mark.parametrize("label", EXPRESSIONS)
def test_captions_never_name_the_expression(label: str) -> None:
    assert not any(name in told(label, seed) for seed in range(10) for name in EXPRESSIONS)
