"""Plots and the page of a recording: small for any length, absences visible, names harmless."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chromium import start_chromium
from dfer.runtime.errors import DferError
from dfer.runtime.outputs.history import MOST_FACES, MOST_POINTS, History, ProbabilitySeries
from dfer.runtime.outputs.palette import hex_of
from dfer.runtime.outputs.timeline import PLOT_SUFFIXES, Timeline
from dfer.runtime.predictions import Prediction
from dfer.runtime.sources import Frame
from helpers import step_of

CLASSES = ("happiness", "neutral", "anger")


def said(time: float, row: tuple[float, ...], track: int = 1, source: str = "a.mp4") -> Prediction:
    return Prediction(source, 0, time, track, (0, 0, 9, 9), np.array(row, np.float32), CLASSES, "ready")


def shares(time: float) -> tuple[float, float, float]:
    happy = 0.5 + 0.4 * float(np.sin(time / 300))
    return happy, 0.9 - happy, 0.1


def test_faces_of_different_photographs_are_not_one_course(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "o.html", CLASSES)
    for index, name in enumerate(("a.jpg", "b.jpg")):
        one = replace(said(index / 8, (0.8, 0.1, 0.1), source="album"), frame=index, file=name)
        step = step_of(one)
        timeline.write(replace(step, frame=Frame(step.frame.image, index, one.time, cut=True, file=name)))
    timeline.close()
    page = (tmp_path / "o.html").read_text()
    assert re.findall(r"album/\w\.jpg · face 1", page) == ["album/a.jpg · face 1", "album/b.jpg · face 1"]
    assert '"summary":""' not in page.replace(": ", ":")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_letters_that_no_font_has_are_drawn_as_question_marks(tmp_path: Path, suffix: str) -> None:
    """Whatever fonts there are, none has this letter of Unicode's private use."""
    for name, label in (("odd", "\uf8ff$ é"), ("plain", "?$ é")):
        timeline = Timeline(tmp_path / f"{name}{suffix}", (label, "Ярость"))
        one = Prediction(label, 0, 0.0, 1, (0, 0, 9, 9), np.array((0.8, 0.2), np.float32), (label, "Ярость"), "ready")
        timeline.write(step_of(one))
        timeline.write(step_of(replace(one, source=f"another {label}")))
        timeline.close()
    if suffix == ".png":
        odd, plain = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("odd", "plain"))
        np.testing.assert_array_equal(odd, plain)


def test_a_short_recording_is_kept_point_by_point() -> None:
    series = ProbabilitySeries(3)
    times = [index / 8 for index in range(500)]
    for time in times:
        series.add(time, np.array(shares(time), np.float32))
    kept, rows = series.points()
    assert kept == pytest.approx(times)
    assert rows == pytest.approx(np.array([shares(time) for time in times]), abs=1e-6)


def test_an_hour_is_thinned_to_a_picture_and_looks_the_same() -> None:
    series = ProbabilitySeries(3)
    for index in range(8 * 3600):
        series.add(index / 8, np.array(shares(index / 8), np.float32))
    times, rows = series.points()
    assert MOST_POINTS / 3 < len(times) <= MOST_POINTS
    assert rows == pytest.approx(np.array([shares(float(time)) for time in times]), abs=0.01)
    assert len(series.stretches()) == 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(1e-4, 1e5), st.floats(0, 1)), max_size=3 * MOST_POINTS))
def test_whatever_comes_there_are_few_points_and_their_shares_sum_to_one(steps: list[tuple[float, float]]) -> None:
    series, time = ProbabilitySeries(2), 0.0
    for step, share in steps:
        time += step
        series.add(time, np.array([share, 1 - share], np.float32))
    times, rows = series.points()
    assert len(times) <= MOST_POINTS and bool(len(times)) == bool(steps)
    assert rows.sum(axis=1) == pytest.approx(np.ones(len(times)), abs=1e-5)
    assert (np.diff(times) > 0).all()
    assert sum(len(part[0]) - 2 for part in series.stretches()) == len(times)


def test_a_face_seen_once_is_seen_and_not_before_the_recording_begins() -> None:
    for time, begin, end in ((0.0, 0.0, 0.0625), (3.0, 2.9375, 3.0625)):
        series = ProbabilitySeries(3)
        series.add(time, np.array(shares(0), np.float32))
        [(times, rows)] = series.stretches()
        assert times.tolist() == [begin, time, end] and len(rows) == 3


def test_an_absence_stays_an_absence_even_in_a_thinned_recording() -> None:
    series = ProbabilitySeries(3)
    for index in range(8 * 3600):
        if not 1000 <= index / 8 < 1600:
            series.add(index / 8, np.array(shares(0), np.float32))
    first, second = (part[0] for part in series.stretches())
    assert first[-1] == pytest.approx(1000, abs=20)
    assert second[0] == pytest.approx(1600, abs=20)


def test_of_many_faces_those_seen_longest_are_shown() -> None:
    history = History(CLASSES)
    for index in range(3000):
        history.add(said(float(index), shares(0), track=7))
        history.add(said(float(index), shares(0), track=100 + index))
    faces = history.longest()
    assert len(faces) == MOST_FACES
    assert faces[0][:2] == (("a.mp4", 7), "face 7") and faces[0][2].predictions == 3000
    assert history.left_out == 3001 - MOST_FACES


def test_memory_does_not_grow_with_the_number_of_photographs() -> None:
    history, sizes = History(CLASSES), []
    for index in range(3000):
        history.add(said(index / 8, shares(0), source=f"album/{index:04}.jpg"))
        if index in (999, 2999):
            sizes.append(len(pickle.dumps(history)))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert history.left_out == 3000 - len(history.longest()) == 3000 - MOST_FACES


@pytest.mark.parametrize("suffix", PLOT_SUFFIXES)
def test_every_kind_of_picture_is_drawn_for_several_sources(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    timeline = Timeline(path, CLASSES)
    for index in range(40):
        for source in ("a $1 & <b>.mp4", "rtsp://host/x_{2}"):
            timeline.write(step_of(said(index / 8, shares(100 * index), 1, source)))
    timeline.close()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size > 3000
    if suffix == ".png":
        assert cv2.imread(str(path)).std() > 20


def test_a_face_seen_once_is_in_the_picture(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "o.png", CLASSES)
    timeline.write(step_of(said(3.0, (1.0, 0.0, 0.0))))
    timeline.close()
    image = cv2.imread(str(tmp_path / "o.png"))[100:]
    assert (np.abs(image.astype(int) - (5, 183, 242)).sum(axis=2) < 20).mean() > 0.2


def content_of(page: Path) -> dict[str, list[dict[str, object]]]:
    found = re.search(r"^const data = (.*);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return dict(json.loads(found.group(1)))


def test_the_page_stands_alone_and_a_name_cannot_end_its_script(tmp_path: Path) -> None:
    page, name = tmp_path / "o.html", "</script><script>alert(1)</script>"
    timeline = Timeline(page, CLASSES)
    for source in (name, "b"):
        timeline.write(step_of(said(0, shares(0), 1, source)))
    timeline.close()
    text = page.read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org/", "")
    assert text.count("</script>") == 1
    assert content_of(page)["faces"][0]["name"] == f"{name} · face 1"


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_a_plot_says_what_labels_are_about_and_what_was_really_shown(tmp_path: Path, suffix: str) -> None:
    path, script = tmp_path / f"o{suffix}", [[(0.0, 1.5, "anger"), (1.5, 3.0, "neutral")]]
    timeline = Timeline(path, CLASSES, script, {"window_s": 1.3500000001})
    for index in range(24):
        for track in (1, 2):
            timeline.write(step_of(said(index / 8, shares(index), track)))
    timeline.close()
    if suffix == ".svg":
        assert "time (s); a label is about the last 1.35 s" in path.read_text()
        return
    first, second = content_of(path)["faces"]
    assert first["shown"] == [
        [0.0, 1.5, "anger", hex_of("anger", CLASSES)],
        [1.5, 3.0, "neutral", hex_of("neutral", CLASSES)],
    ]
    assert second["shown"] == []


def test_the_page_says_what_was_read_with_which_model_and_sums_it_up(tmp_path: Path) -> None:
    header = {"bundle_name": "align.dfer", "model": "align-dfer", "provider": "cpu", "precision": "int8"}
    header |= {"started": "2026-01-02T03:04:05.678+00:00", "window_s": 2.0, "fps": 8.0, "sources": ["clips/a.mp4"]}
    timeline = Timeline(tmp_path / "o.html", CLASSES, header=header)
    for index in range(40):
        timeline.write(step_of(said(index / 8, (0.1, 0.85, 0.05) if index < 10 else (0.1, 0.05, 0.85))))
    timeline.close()
    with start_chromium(tmp_path / "chromium") as browser:
        tab = browser.tab()
        tab.resize(390, 800)
        tab.open((tmp_path / "o.html").as_uri())
        text = tab.wait("document.querySelector('h1')?.innerText && document.body.innerText")
        assert tab.run("document.title") == "Expressions over time: a.mp4"
        assert tab.run("document.documentElement.scrollWidth") <= 390
        tab.close()
    for told in (
        "clips/a.mp4",
        "align.dfer (align-dfer), cpu, int8",
        "2026",
        "in the 2 s before it",
        "100 %",
        "0.00 s",
    ):
        assert told in text
    assert "0.0 to 4.9 s, 40 predictions: anger 75%, neutral 25%" in text


def test_the_page_tells_the_probabilities_under_the_pointer_and_zooms(tmp_path: Path) -> None:
    browsers = pytest.importorskip("playwright.sync_api", reason="no browser to open the page in")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    timeline = Timeline(tmp_path / "o.html", CLASSES)
    for index in range(80):
        timeline.write(step_of(said(index / 8, (0.1, 0.85, 0.05) if index < 40 else (0.1, 0.05, 0.85))))
    timeline.close()
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[object] = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((tmp_path / "o.html").as_uri())
        box = page.locator("svg").bounding_box()
        assert box is not None
        place = [box["x"] + share * box["width"] for share in (0.25, 0.75)], box["y"] + 40
        told = []
        for x in place[0]:
            page.mouse.move(x, place[1])
            told.append(page.inner_text("#tip").split("\n")[1].split())
        page.mouse.down()
        page.mouse.move(place[0][0], place[1])
        page.mouse.up()
        ends = page.inner_text(".axis").split("\n")
        browser.close()
    assert told == [["neutral", "85.0", "%"], ["anger", "85.0", "%"]]
    assert [float(end.removesuffix(" s")) for end in (ends[0], ends[-1])] == pytest.approx([2.5, 7.5], abs=0.1)
    assert not errors


def test_the_page_of_an_hour_is_small(tmp_path: Path) -> None:
    page = tmp_path / "o.html"
    timeline = Timeline(page, CLASSES)
    for index in range(8 * 3600):
        timeline.write(step_of(said(index / 8, shares(index / 8))))
    timeline.close()
    assert page.stat().st_size < 100_000


def test_a_picture_without_faces_says_so(tmp_path: Path) -> None:
    for suffix in (".svg", ".html"):
        Timeline(tmp_path / f"o{suffix}", CLASSES).close()
    assert "no face was found" in (tmp_path / "o.svg").read_text()
    assert content_of(tmp_path / "o.html")["faces"] == []


def test_a_picture_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DferError, match=r"gone/o\.png: No such file"):
        Timeline(tmp_path / "gone" / "o.png", CLASSES).close()
