"""Photographs are not film: each is searched anew, and nothing of one is carried into another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfer.runtime.predictions import Prediction
from dfer.runtime.recognizer import Recognizer
from dfer.runtime.sources import Frame, Source, open_source
from helpers import assert_same_rows


@pytest.fixture(scope="module")
def recognizer() -> Iterator[Recognizer]:
    with Recognizer(precision="fp32") as opened:
        yield opened


def album(folder: Path, face_frames: list[np.ndarray], names: list[str]) -> Path:
    """Pictures of several sizes with the face in different places."""
    folder.mkdir()
    big = cv2.copyMakeBorder(face_frames[0], 200, 0, 300, 0, cv2.BORDER_REPLICATE)
    pictures = [face_frames[10], big, face_frames[40][:, ::-1], np.full((90, 120, 3), 90, np.uint8), face_frames[70]]
    for name, picture in zip(names, pictures, strict=True):
        (folder / name).write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    return folder


def rows(recognizer: Recognizer, source: Source) -> list[Prediction]:
    return [one for step in recognizer.steps(source) for one in step.predictions]


def test_photographs_are_read_one_by_one_whatever_their_order(
    recognizer: Recognizer, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    names = ["anna.png", "bert.png", "carl.png", "dora.png", "emil.png"]
    found = rows(recognizer, open_source(album(tmp_path / "a", face_frames, names)))
    assert [one.file for one in found] == ["anna.png", "bert.png", "carl.png", "emil.png"]
    assert {one.track_id for one in found} == {1}
    assert {one.state for one in found} == {"ready"}
    for one in found:
        size = cv2.imread(str(tmp_path / "a" / one.file)).shape
        x, y, width, height = one.box
        assert 0 <= x < x + width <= size[1]
        assert 0 <= y < y + height <= size[0]
    other_way = ["v.png", "u.png", "t.png", "s.png", "r.png"]
    again = {one.file: one for one in rows(recognizer, open_source(album(tmp_path / "b", face_frames, other_way)))}
    new_name = dict(zip(names, other_way, strict=True))
    for one in found:
        other = again[new_name[one.file]]
        assert (one.box, one.track_id, one.label) == (other.box, other.track_id, other.label)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_photographs_are_not_smoothed_into_one_another(
    recognizer: Recognizer, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    folder = album(tmp_path / "a", face_frames, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    plain = rows(recognizer, open_source(folder, photos=True))
    with Recognizer(smooth=5, precision="fp32") as smoothing:
        assert_same_rows(rows(smoothing, open_source(folder, photos=True)), plain)


def test_a_sequence_of_images_is_a_film_and_each_row_names_its_image(
    recognizer: Recognizer, face_frames: list[np.ndarray], tmp_path: Path
) -> None:
    for index, picture in enumerate(face_frames[:6]):
        (tmp_path / f"{index}.png").write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    found = rows(recognizer, open_source(tmp_path, image_rate=recognizer.fps))
    assert [one.file for one in found] == [f"{one.frame}.png" for one in found]
    assert len(found) == 6
    assert {one.track_id for one in found} == {1}
    again = rows(recognizer, open_source(tmp_path, image_rate=recognizer.fps, photos=True))
    np.testing.assert_allclose(found[0].probabilities, again[0].probabilities, atol=1e-5)
    assert np.abs(found[-1].probabilities - again[-1].probabilities).max() > 1e-4  # no window behind it


class Joined(Source):
    """Frames of one's own."""

    def __init__(self, frames: list[Frame]) -> None:
        self.name, self.rate, self.count = "joined", 24.0, len(frames)
        self.given = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.given)


def test_where_the_clock_jumps_the_window_starts_anew_and_faces_get_new_numbers(
    recognizer: Recognizer, face_frames: list[np.ndarray]
) -> None:
    film = [Frame(face_frames[index % 72], index, index / 24, cut=index == 60) for index in range(120)]
    found = rows(recognizer, Joined(film))
    assert {one.track_id for one in found if one.frame < 60} == {1}
    assert {one.track_id for one in found if one.frame >= 60} == {2}
    assert next(one for one in found if one.frame >= 60).state == "warmup"
    assert found[len(found) // 2 - 1].state == "ready"


def test_where_the_size_changes_faces_are_searched_for_again(
    recognizer: Recognizer, face_frames: list[np.ndarray]
) -> None:
    small = [cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA) for image in face_frames]
    pictures = [*face_frames[:25], *(np.asarray(image, np.uint8) for image in small[25:50])]
    for step in recognizer.steps(Joined([Frame(image, index, index / 24) for index, image in enumerate(pictures)])):
        for face in step.faces:
            x, y, width, height = face.box
            assert x + width / 2 < step.frame.image.shape[1]
            assert y + height / 2 < step.frame.image.shape[0]
            assert width < 0.7 * step.frame.image.shape[1]
