"""The summary: shares of time and changes per face, for any number of faces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PureWindowsPath

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from dfer.runtime.outputs.summary import Summary, predictions_table, stages_table
from dfer.runtime.predictions import Prediction, Step
from dfer.runtime.sources import Frame
from dfer.runtime.timing import StageTimes
from helpers import step_of

CLASSES = ("happiness", "neutral")


def said(time: float, label: str, track: int = 1, source: str = "a.mp4") -> Prediction:
    probabilities = np.array([0.8, 0.2] if label == "happiness" else [0.4, 0.6], np.float32)
    return Prediction(source, round(time * 24), time, track, (0, 0, 9, 9), probabilities, CLASSES, "ready")


def printed(table: Table, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_no_figure_is_cut_in_eighty_columns() -> None:
    summary = Summary()
    for source in ("an interview with a very long name, take one.mp4", "rtsp://host/a/stream"):
        for second in (12345.1, 12346.2, 98765.4):
            summary.add(said(second, "neutral", track=1234, source=source))
            summary.add(said(second + 0.5, "happiness", track=1234, source=source))
    faces = printed(summary.table(), 80)
    for figure in ("1234", "12345.1–98765.9", " 6 ", "70%", "64%", "36%"):
        assert faces.count(figure) >= 2, figure
    slow = StageTimes("encode", 123_456_789, *(12345.678 + place for place in range(6)))
    stages = printed(stages_table([slow]), 80)
    for figure in ("123456789", "12346", "12347", "12348", "12349", "12350", "12351"):
        assert figure in stages
    for text in (faces, stages):
        assert max(map(len, text.splitlines())) <= 80


def test_brackets_in_a_name_stay() -> None:
    summary = Summary()
    for source in ("Talk [dQw4].mp4", "other.mp4"):
        summary.add(said(0.0, "neutral", source=source))
    assert "Talk [dQw4].mp4" in printed(summary.table())


def test_the_folders_of_a_windows_path_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.outputs.summary.PurePath", PureWindowsPath)
    summary = Summary()
    for source in ("C:\\films\\a.mp4", "rtsp://host/stream/", "."):
        summary.add(said(0.0, "neutral", source=source))
    text = printed(summary.table())
    assert "a.mp4" in text and "films" not in text and " stream " in text and "host" not in text and " . " in text


def test_shares_are_of_time_and_not_of_predictions() -> None:
    summary = Summary(step=0.1)
    for index in range(11):  # a second of fast sampling, then three of slow
        summary.add(said(index / 10, "neutral"))
    for index in range(1, 7):
        summary.add(said(1 + index / 2, "happiness"))
    (face,) = summary.to_json()["faces"]
    assert face["dominant"] == "happiness"
    assert face["shares"] == {
        "happiness": pytest.approx(3 / 4.1, abs=1e-3),
        "neutral": pytest.approx(1.1 / 4.1, abs=1e-3),
    }
    assert (face["first_s"], face["last_s"], face["predictions"]) == (0, 4, 17)
    assert face["confidence"] == pytest.approx((11 * 0.6 + 6 * 0.8) / 17, abs=1e-4)


def test_time_away_counts_for_no_expression_and_is_no_change() -> None:
    summary = Summary(step=0.5)
    for time, label in ((0, "neutral"), (0.5, "neutral"), (100, "happiness")):
        summary.add(said(time, label))
    back_soon = Summary()  # so that it is a change
    for time, label in ((0, "neutral"), (0.125, "neutral"), (5, "happiness")):
        back_soon.add(said(time, label))
    for one, changes in ((summary, 0), (back_soon, 1)):
        (face,) = one.to_json()["faces"]
        assert face["shares"] == {
            "neutral": pytest.approx(2 / 3, abs=1e-3),
            "happiness": pytest.approx(1 / 3, abs=1e-3),
        }
        assert len(face["transitions"]) == changes


def test_a_slow_source_and_faces_that_are_read_seldom_have_their_changes_and_their_time() -> None:
    rates: dict[str, float | None] = {"a.mp4": None}
    summary = Summary(0.125, rates)
    rates["a.mp4"] = 0.5  # as of a file that was opened meanwhile
    for index in range(6):
        summary.add(said(2 * index, ("neutral", "happiness")[index % 2]))
        summary.add(said(2 * index, ("neutral", "happiness")[index % 2], source="camera 0"))
    slow, seldom = summary.to_json()["faces"]
    assert [entry["count"] for entry in slow["transitions"]] == [entry["count"] for entry in seldom["transitions"]]
    assert sum(entry["count"] for entry in slow["transitions"]) == 5
    assert sum(summary.tracks["a.mp4", 1].seconds.values()) == pytest.approx(12)


def test_changes_are_counted_by_what_followed_what() -> None:
    summary = Summary()
    for index, label in enumerate(["neutral", "happiness", "neutral", "happiness", "happiness"]):
        summary.add(said(index / 8, label))
    (face,) = summary.to_json()["faces"]
    assert face["transitions"] == [
        {"from": "neutral", "to": "happiness", "count": 2},
        {"from": "happiness", "to": "neutral", "count": 1},
    ]
    assert "3, mostly neutral → happiness (2)" in printed(summary.table())


@pytest.mark.parametrize("labels", ["neutral happiness neutral", "neutral happiness neutral happiness neutral"])
def test_no_change_is_the_main_one_that_is_as_frequent_as_another(labels: str) -> None:
    summary = Summary()
    for index, label in enumerate(labels.split()):
        summary.add(said(index / 8, label))
    text = printed(summary.table())
    assert "mostly" not in text
    assert next(line for line in text.splitlines() if "%" in line).split()[-1] == str(len(labels.split()) - 1)


def test_faces_of_several_sources_are_told_apart() -> None:
    summary = Summary()
    for source in ("b.mp4", "a.mp4"):
        for track in (2, 1):
            summary.add(said(0, "neutral", track, source))
    faces = json.loads(json.dumps(summary.to_json()))["faces"]
    assert [(face["source"], face["track"]) for face in faces] == [
        *(("b.mp4", 1), ("b.mp4", 2)),
        *(("a.mp4", 1), ("a.mp4", 2)),
    ]
    assert "b.mp4" in printed(summary.table())


def test_a_street_of_passers_by_does_not_grow_without_end_and_who_stays_is_kept() -> None:
    summary = Summary()
    for index in range(5000):
        summary.add(said(float(index), "happiness", track=1))
        summary.add(said(float(index), "neutral", track=index + 2))
    assert len(summary.tracks) <= 1000
    assert len(summary.tracks) + summary.forgotten == 5001
    assert summary.tracks["a.mp4", 1].predictions == 5000
    assert summary.to_json()["faces_left_out"] == summary.forgotten
    assert "seen more briefly" in printed(summary.table())


def test_the_table_shows_the_faces_that_were_read_most() -> None:
    summary = Summary()
    for track in range(1, 24):
        for index in range(track):
            summary.add(said(index / 8, "neutral", track))
    lines = printed(summary.table()).splitlines()
    assert [int(line.split()[0]) for line in lines if "neutral" in line] == list(range(4, 24))
    assert lines[-1].strip() == "and 3 faces seen more briefly"


def test_the_table_of_predictions_has_the_last_of_each_span_face_by_face() -> None:
    first = replace(said(0.0, "neutral"), state="warmup")
    made = [first, said(0.5, "happiness"), said(1.25, "neutral", track=2), said(1.5, "happiness")]

    def rows(every: float) -> list[list[str]]:
        lines = (line.strip("│").split("│") for line in printed(predictions_table(made, every)).splitlines())
        return [[cell.strip() for cell in cells] for cells in lines if len(cells) == 3]

    early, happy = ["0.00", "neutral 60% (warmup)", ""], ["0.50", "happiness 80%", ""]
    assert rows(0.5) == [early, happy, ["1.25", "", "neutral 60%"], ["1.50", "happiness 80%", ""]]
    assert rows(1.0) == [happy, ["1.50", "happiness 80%", "neutral 60%"]]


def test_poor_predictions_profiles_and_sources_without_a_face_are_told() -> None:
    summary = Summary()
    for time, quality in ((0.0, 0.1), (0.125, 0.24), (0.25, 0.26), (0.375, None)):
        summary.write(replace(step_of(replace(said(time, "neutral"), quality=quality)), profiles=(7, 9)))
    for source in ("a.mp4", "empty.mp4"):
        summary.write(replace(step_of(said(0.5, "neutral", source=source)), predictions=()))
    told = summary.to_json()
    assert (told["predictions"], told["poor"], told["profile_samples"]) == (4, 2, 8)
    assert told["faceless"] == ["empty.mp4"]


def test_a_run_without_faces_has_a_summary() -> None:
    empty = {"predictions": 0, "poor": 0, "profile_samples": 0, "faces": [], "faces_left_out": 0, "faceless": []}
    assert Summary().to_json() == empty


def album(*names: str) -> Summary:
    """Of photographs with these names, of one face each."""
    summary = Summary()
    for index, name in enumerate(names):
        one = replace(said(index / 8, "happiness", source="album"), frame=index, file=name)
        step = step_of(one)
        summary.write(replace(step, frame=Frame(step.frame.image, index, one.time, cut=True, file=name)))
    return summary


def test_every_photograph_has_faces_of_its_own() -> None:
    faces = album("a.jpg", "b.jpg").to_json()["faces"]
    assert [face["source"] for face in faces] == ["album/a.jpg", "album/b.jpg"]


def test_photographs_without_a_face_are_named() -> None:
    summary = album("a.jpg", "b.jpg", "c.jpg")
    for index, name in ((3, "wall.jpg"), (4, "sea.jpg")):
        frame = Frame(np.zeros((8, 8, 3), np.uint8), index, index / 8, cut=True, file=name)
        summary.write(Step("album", frame, (), ()))
    assert summary.to_json()["faceless"] == ["album/wall.jpg", "album/sea.jpg"]


def test_the_table_of_photographs_speaks_of_no_time() -> None:
    text = printed(album(*(f"{number}.jpg" for number in range(23))).table())
    heading, _, first, *_ = (line for line in text.splitlines()[1:] if line.strip())
    assert heading.split() == ["file", "face", "label", "confidence"]
    assert first.split() == ["0.jpg", "1", "happiness", "80%"]
    assert "and 3 more" in text and "briefly" not in text


def test_among_films_photographs_have_no_time() -> None:
    summary = album("a.jpg")
    summary.add(said(0.0, "neutral", source="film.mp4"))
    photo, film = (line for line in printed(summary.table()).splitlines() if ".jpg" in line or ".mp4" in line)
    assert photo.split() == ["a.jpg", "1", "80%", "happiness"]
    assert film.split() == ["film.mp4", "1", "0.0–0.0", "1", "60%", "neutral", "100%", "0"]
