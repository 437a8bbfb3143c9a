"""Pictures of landmarks: each layout's mirror, that points follow augmentation, and what is drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dfer.runtime.faces.detection import FaceDetector
from dfer.train.data.augmentation import AUGMENTATIONS
from dfer.train.data.procedural import ProceduralClips
from dfer.train.landmarks.layouts import FIVE, IBUG, LAYOUTS, reduce_mesh
from dfer.train.landmarks.pictures import draw_pictures, move_points

SIDE = 128


@pytest.fixture(scope="module")
def clips() -> ProceduralClips:
    return ProceduralClips([3])


def five_of(points: np.ndarray) -> np.ndarray:
    """The detector's five of 68 points [...,68,2]."""
    eyes = [points[..., run, :].mean(axis=-2) for run in (slice(36, 42), slice(42, 48))]
    return np.stack([*eyes, points[..., 30, :], points[..., 48, :], points[..., 54, :]], axis=-2)


def test_a_mirror_undoes_itself_and_swaps_sides(clips: ProceduralClips) -> None:
    for count, layout in LAYOUTS.items():
        assert np.array_equal(layout.mirror[layout.mirror], np.arange(count))
    for name in clips.names:
        points = clips.landmarks[name][0]
        for one, layout in ((points, IBUG), (five_of(points), FIVE)):
            upright = one - one.mean(axis=0)
            mirrored = (upright * (-1, 1))[layout.mirror]
            wrong = (upright * (-1, 1))[np.random.default_rng(0).permutation(len(one))]
            assert np.abs(mirrored - upright).mean() < 0.05 < np.abs(wrong - upright).mean()


def test_drawn_people_give_their_landmarks_where_the_detector_finds_them(clips: ProceduralClips) -> None:
    detector = FaceDetector(min_score=0.5)
    off = []
    for index, name in enumerate(clips.names):
        for frame, points in zip(clips.frames(index), clips.landmarks[name], strict=True):
            wide = cv2.copyMakeBorder(frame, 43, 43, 43, 43, cv2.BORDER_REPLICATE)
            faces = detector.detect(wide)
            if faces:
                off.append(np.abs(faces[0].landmarks - 43 - (five_of(points) * SIDE - 0.5)).mean())
    assert len(off) > 80
    assert np.mean(off) < 3  # pixels of 128


@pytest.mark.parametrize("augmentation", ["paper", "strong", "resized-crop"])
@pytest.mark.parametrize("count", [5, 68])
def test_points_lie_on_what_they_mark_after_augmentation(augmentation: str, count: int) -> None:
    rng = np.random.default_rng(count)
    points = rng.uniform(0.35, 0.65, (count, 2)).astype(np.float32)
    frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for frame, (x, y) in zip(frames, points * SIDE - 0.5, strict=True):  # each point has a frame that shows it alone
        cv2.circle(frame, (round(x * 16), round(y * 16)), 4 * 16, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, 4)
    flips, compared = set(), 0
    for seed in range(6):
        view = AUGMENTATIONS[augmentation](frames, 96, np.random.default_rng(seed), 0.5)
        flipped = bool(np.linalg.det(view.moves[0, :, :2]) < 0)
        flips.add(flipped)
        moved = move_points(np.repeat(points[None], count, axis=0), view.moves, SIDE)
        for number, frame in enumerate(view.frames):
            place = LAYOUTS[count].mirror[number] if flipped else number
            if np.abs(moved[number, place] - 47.5).max() > 32:
                continue  # cut off, or nearly
            compared += 1
            light = frame[..., 0].astype(float) - np.median(frame)
            light[light < 0.6 * light.max()] = 0
            y, x = np.mgrid[:96, :96]
            shown = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
            assert np.abs(moved[number, place] - shown).max() < 1.0
    assert flips == {False, True}
    assert compared > 3 * count


def test_regions_are_filled_where_the_drawn_face_has_them(clips: ProceduralClips) -> None:
    points = clips.landmarks[clips.names[0]]
    unmoved = np.repeat(np.array([[[1.0, 0, 0], [0, 1, 0]]]), len(points), axis=0)
    pixels = move_points(points, unmoved, SIDE)
    lines, regions = draw_pictures(pixels, SIDE)[0]
    assert lines.any()
    assert (lines > 0).any(axis=-1).mean() < 0.2 < (regions > 0).any(axis=-1).mean()
    colours = [
        regions[tuple(np.rint(pixels[0, part].mean(axis=0)[::-1]).astype(int))]
        for part in (range(36, 42), range(42, 48), range(31, 36), range(17, 22))
    ]
    assert np.array_equal(colours[0], colours[1])
    assert len({tuple(colour) for colour in colours}) == 3
    chin, above = np.rint(pixels[0, 8]).astype(int), np.rint(pixels[0, 19]).astype(int)
    assert not regions[chin[1] + 4 :].any()
    assert not regions[: above[1] - 12].any()


def test_frames_without_landmarks_and_points_outside_are_black() -> None:
    points = np.random.default_rng(0).uniform(0, 64, (3, 68, 2)).astype(np.float32)
    points[1] = np.nan
    points[2] += 1000
    pictures = draw_pictures(points, 64)
    assert pictures.shape == (3, 2, 64, 64, 3)
    assert pictures[0].any(axis=(1, 2, 3)).all()
    assert not pictures[1:].any()
    assert draw_pictures(points[:1, :5], 64).any(axis=(2, 3, 4)).all()


def test_a_mesh_becomes_68_points() -> None:
    mesh = np.random.default_rng(0).normal(size=(2, 468, 2)).astype(np.float32)
    assert reduce_mesh(mesh).shape == (2, 68, 2)
    irises = np.concatenate([mesh, mesh[:, :10]], axis=1)
    assert np.array_equal(reduce_mesh(irises), reduce_mesh(mesh))
    assert len(np.unique(reduce_mesh(mesh), axis=1)[0]) == 68
