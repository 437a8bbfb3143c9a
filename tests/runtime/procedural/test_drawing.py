"""The procedural face: reproducible, obeys its action units, stays in reach and looks like a face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.procedural import (
    BACKGROUNDS,
    HAIR_STYLES,
    REACH,
    ActionUnits,
    Identity,
    Pose,
    draw_background,
    draw_face,
    trace_face,
)

SIZE, HEIGHT = 224, 130.0
NEUTRAL, AHEAD = ActionUnits(), Pose()


def person(seed: int) -> Identity:
    return Identity.sample(np.random.default_rng(seed))


def portrait(identity: Identity, units: ActionUnits = NEUTRAL, pose: Pose = AHEAD) -> tuple[np.ndarray, np.ndarray]:
    canvas = draw_background(identity, SIZE, SIZE)
    return canvas, draw_face(canvas, identity, units, pose, (SIZE / 2, SIZE / 2 + 8), HEIGHT)


def test_equal_seeds_give_equal_pixels() -> None:
    (first, marks), (second, again) = portrait(person(3)), portrait(person(3))
    assert np.array_equal(first, second) and np.array_equal(marks, again)
    assert not np.array_equal(first, portrait(person(4))[0])


def test_landmarks_type_and_order() -> None:
    _, marks = portrait(person(1))
    assert marks.shape == (5, 2) and marks.dtype == np.float32
    left_eye, right_eye, nose, left_mouth, right_mouth = marks
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


def test_mouth_corners_follow_the_smile() -> None:
    for seed in range(4):
        marks = [portrait(person(seed), ActionUnits(mouth_corner=v))[1] for v in (1.0, 0.0, -1.0)]
        smile, rest, frown = (corners[3:, 1].mean() for corners in marks)
        assert smile < rest - 3 < frown - 6


def test_jaw_drop_opens_a_dark_mouth_and_lengthens_the_face() -> None:
    face = replace(person(0), skin=(230.0, 190.0, 165.0), beard=0.0, moustache=0.0, light_strength=0.2)
    shut, marks = portrait(face)
    wide, _ = portrait(face, ActionUnits(jaw_drop=1.0))
    x, y = marks[3:].mean(0).round().astype(int)
    below = np.s_[y + 4 : y + 12, x - 4 : x + 5]
    assert wide[below].mean() < shut[below].mean() - 50


def test_brows_rise_and_knit() -> None:
    face = replace(
        person(0),
        skin=(235.0, 200.0, 175.0),
        brow=(20.0, 15.0, 12.0),
        glasses=None,
        hair_style="bald",
        age=0.0,
    )

    def brow_row(units: ActionUnits) -> float:
        canvas, marks = portrait(face, units)
        x, y = marks[0].round().astype(int)
        column = canvas[y - 30 : y - 7, x].mean(-1)
        return float(column.argmin())

    assert brow_row(ActionUnits(inner_brow=1, outer_brow=1)) < brow_row(NEUTRAL) < brow_row(ActionUnits(brow_lower=1))


def test_pose_moves_the_nose_and_rolls_the_eyes() -> None:
    face = person(2)
    _, ahead = portrait(face)
    assert portrait(face, pose=Pose(yaw=20))[1][2, 0] > ahead[2, 0] + 10
    assert portrait(face, pose=Pose(pitch=20))[1][2, 1] < ahead[2, 1] - 10
    across = np.subtract(*portrait(face, pose=Pose(roll=15))[1][[1, 0]])
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(15, abs=0.5)


def test_units_add_and_scale_field_by_field() -> None:
    a, b = ActionUnits(jaw_drop=1.0), ActionUnits(mouth_corner=-1.0)
    assert (a + b) * 0.5 == ActionUnits(jaw_drop=0.5, mouth_corner=-0.5)


def test_every_hair_style_looks_different() -> None:
    drawn = {portrait(replace(person(5), hair_style=style))[0].tobytes() for style in HAIR_STYLES}
    assert len(drawn) == len(HAIR_STYLES)


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_background(kind: str) -> None:
    scene = draw_background(replace(person(5), background=kind), 40, 60)
    assert scene.shape == (40, 60, 3) and scene.dtype == np.uint8
    assert (scene.std((0, 1)).max() < 1e-6) == (kind == "plain")


def test_walls_and_clothes_are_not_garish() -> None:
    for seed in range(50):
        face = person(seed)
        for colour in (face.clothes, *face.backdrop):
            assert max(colour) - min(colour) <= 0.45 * max(colour)


SIGNED = st.floats(-1, 1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    units=st.lists(SIGNED, min_size=len(NEUTRAL.vector()), max_size=len(NEUTRAL.vector())),
    pose=st.tuples(*[st.floats(-30, 30)] * 3),
    center=st.tuples(st.floats(-400, 600), st.floats(-400, 600)),
    height=st.floats(0.5, 400),
)
def test_any_face_stays_within_reach(
    seed: int,
    units: list[float],
    pose: tuple[float, float, float],
    center: tuple[float, float],
    height: float,
) -> None:
    canvas = np.full((120, 160, 3), 77, np.uint8)
    marks = draw_face(canvas, person(seed), ActionUnits(*units), Pose(*pose), center, height)
    assert np.isfinite(marks).all()
    rows, columns = np.nonzero((canvas != 77).any(-1))
    assert (np.abs(columns - center[0]) <= REACH * height + 1).all()
    assert (np.abs(rows - center[1]) <= REACH * height + 1).all()


def test_the_detector_finds_the_faces_and_their_landmarks() -> None:
    detector = FaceDetector(min_score=0.8)
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(60):
        face, pose = Identity.sample(rng), Pose(*rng.uniform(-18, 18, 3))
        units = ActionUnits(mouth_corner=rng.uniform(-1, 1), jaw_drop=rng.uniform(0, 0.8), brow_lower=rng.uniform(0, 1))
        canvas, marks = portrait(face, units, pose)
        for found in detector.detect(canvas)[:1]:
            errors.append(np.linalg.norm(found.landmarks - marks, axis=1) / HEIGHT)
    assert len(errors) >= 0.97 * 60
    assert np.mean(errors) < 0.06


def test_traced_points_lie_where_the_face_is_drawn() -> None:
    """Its pupils, nose and mouth corners are the five that drawing tells; lids part as the eye opens."""
    for seed in range(3):
        who, pose = person(seed), Pose(yaw=8, roll=-5)
        canvas = np.zeros((300, 300, 3), np.uint8)
        five = draw_face(canvas, who, ActionUnits(), pose, (150, 150), 200)
        points = trace_face(who, ActionUnits(), pose, (150, 150), 200)
        assert points.shape == (68, 2)
        eyes = [points[start : start + 6].mean(axis=0) for start in (36, 42)]
        found = np.stack([*eyes, points[30], points[60], points[64]])
        assert np.abs(found - five).max() < 8  # pixels of 200; the inner lips end short of the corners
        wide = trace_face(who, ActionUnits(lid_raise=1, jaw_drop=1, inner_brow=1), pose, (150, 150), 200)
        for upper, lower in ((37, 41), (44, 46), (62, 66)):
            before, after = (np.linalg.norm(one[upper] - one[lower]) for one in (points, wide))
            assert after > before + 1
        assert wide[8, 1] > points[8, 1] + 5
        assert wide[21, 1] < points[21, 1] - 5
