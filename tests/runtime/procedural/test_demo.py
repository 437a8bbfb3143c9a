"""The demo's scene: a real video of two people whom the detector finds and who follow the script."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.faces.detection import Face, FaceDetector
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.procedural.demo import RATE, ROLES, SECONDS, SIZE, demo_script, film_demo

COUNT = round(SECONDS * RATE)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.mp4"
    steps: list[tuple[int, int]] = []
    film_demo(path, lambda done, total: steps.append((done, total)))
    assert steps == [(i + 1, COUNT) for i in range(COUNT)]
    assert [file.name for file in path.parent.iterdir()] == ["demo.mp4"]
    return path


@pytest.fixture(scope="module")
def frames(video: Path) -> list[np.ndarray]:
    reader = cv2.VideoCapture(str(video))
    assert reader.get(cv2.CAP_PROP_FPS) == RATE
    read = []
    while (step := reader.read())[0]:
        read.append(step[1])
    return read


def test_video_has_the_announced_size_and_length(frames: list[np.ndarray]) -> None:
    assert len(frames) == COUNT
    assert {frame.shape for frame in frames} == {(SIZE[1], SIZE[0], 3)}


def test_the_detector_finds_who_is_in_the_picture(frames: list[np.ndarray]) -> None:
    detector = FaceDetector()
    found, due, counts = 0, 0, []
    for index in range(0, COUNT, 6):
        faces = detector.detect(np.ascontiguousarray(frames[index][..., ::-1]))
        counts.append(len(faces))
        for role in ROLES:
            x = role.x(index / RATE)
            if x + role.height / 2 < SIZE[0]:  # wholly visible
                due += 1
                found += any(near(face, x) for face in faces)
    assert found >= 0.97 * due
    assert counts[0] == 1 and max(counts) == 2 and counts[-1] == 1
    assert counts.count(2) > 0.6 * len(counts)


def near(face: Face, x: float) -> bool:
    return abs(float(face.landmarks[:, 0].mean()) - x) < 50


def test_nothing_jumps_where_one_expression_follows_another(frames: list[np.ndarray]) -> None:
    heads = [frame[20:300, 80:300].astype(int) for frame in frames]  # the first person's
    moved = [np.abs(after - before).mean() for before, after in pairwise(heads)]
    assert max(moved) < 5  # grey levels; a cut between two courses is above 10


def test_script_fits_the_video_and_shows_every_expression() -> None:
    first, second = demo_script()
    assert {label for _, _, label in first} == set(EXPRESSIONS)
    assert [label for *_, label in first] != [label for *_, label in second]
    for lines, role in ((first, ROLES[0]), (second, ROLES[1])):
        assert all(a[1] == b[0] for a, b in pairwise(lines))
        assert lines[0][0] >= 0 and lines[-1][1] <= SECONDS
        for moment in (lines[0][0] + 0.1, lines[-1][1]):
            assert role.x(moment) + role.height / 2 < SIZE[0]


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DferError, match="cannot be written"):
        film_demo(tmp_path / "missing" / "demo.mp4")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_film_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        film_demo(tmp_path / "demo.mp4", stop)
    assert not list(tmp_path.iterdir())
