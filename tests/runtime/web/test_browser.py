"""The live page as a person sees it, in a real Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from chromium import Chromium, Tab, start_chromium
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.outputs.palette import COLOURS
from dfer.runtime.predictions import VisibleFace
from dfer.runtime.web import WebPage
from dfer.runtime.web.messages import ServedModel
from web_scene import Run, State, Viewer, make_step, stages

PICTURE = """(() => { const canvas = document.querySelector(".video canvas");
    return canvas && document.querySelector(".track") ? canvas.toDataURL() : null; })()"""
EDGE = """(() => { const chart = document.querySelector(".chart");
    const pen = new OffscreenCanvas(chart.width, 1).getContext("2d", { willReadFrequently: true });
    pen.drawImage(chart, 0, -Math.round(chart.height * 0.4));
    const row = pen.getImageData(0, 0, chart.width, 1).data;
    for (let x = 0; x < chart.width; x += 1)
        if (Math.abs(row[4 * x] - %d) + Math.abs(row[4 * x + 1] - %d) + Math.abs(row[4 * x + 2] - %d) < 12) return x;
    return null; })()"""
"""The leftmost column of the chart that has a colour."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Tab]:
    tab = browser.tab()
    tab.resize(1200, 800)
    yield tab
    tab.close()


@pytest.fixture
def page() -> Iterator[WebPage]:
    with WebPage(EXPRESSIONS, port=0) as page:
        yield page


def sees_motion(tab: Tab) -> None:
    """Wait until the picture has changed three times."""
    for _ in range(3):
        before = tab.wait(PICTURE)
        tab.wait(f"{PICTURE} !== {before!r}")


def test_the_video_moves_and_the_chart_scrolls(page: WebPage, tab: Tab) -> None:
    for count in range(200):  # ten seconds of happiness before the run shows anger
        page.show(make_step(count / 20), stages, [State()])
    tab.open(page.url)
    tab.wait("!!document.querySelector('.track')")  # before the run goes on: the chart holds but thirty seconds
    with Run(page, start=10.0):
        sees_motion(tab)
        edge = EDGE % COLOURS["anger"]
        places = [tab.wait(edge)]
        for _ in range(3):
            tab.wait(f"{edge} < {places[-1] - 4}")
            places.append(tab.run(edge))
        assert tab.run(EDGE % COLOURS["happiness"]) < places[-1]
        assert tab.run("document.querySelector('.reading').textContent") == "anger 88 %"
        assert tab.run("document.querySelector('.source .chip').textContent") == "running"
        table = "document.querySelector('#stages tbody').innerText"
        tab.wait("!document.querySelector('#stages').hidden")
        assert tab.run(table) == ""  # folded away
        tab.run("document.querySelector('#stages summary').click()")
        assert tab.wait(table).startswith("encode")
    assert tab.errors == []


def test_two_viewers_watch_while_a_third_stalls(page: WebPage, browser: Chromium, tab: Tab) -> None:
    other = browser.tab()
    with Run(page, [State("a.mp4"), State("b.mp4")], tracks=(1, 2)), Viewer(page):
        tab.open(page.url)
        other.open(page.url)
        for each in (tab, other, tab):
            sees_motion(each)
            assert each.run("document.querySelectorAll('.source').length") == 2
            assert each.run("document.querySelectorAll('.track').length") == 4
        assert tab.errors == other.errors == []
    other.close()


def test_states_are_told_in_words(page: WebPage, tab: Tab) -> None:
    states = [State("door", "reconnecting", 7, "no answer"), State("yard", "opening")]
    page.show(make_step(0, source="door", tracks=()), stages, states)
    tab.open(page.url)
    tab.wait("document.querySelectorAll('.source').length === 2")
    text = tab.run("document.querySelector('#sources').innerText")
    for told in ("door", "reconnecting", "7 dropped", "no answer", "yard", "opening", "No face in view."):
        assert told in text
    assert tab.wait("document.querySelector('canvas')?.ariaLabel").startswith("Live picture of door")
    assert tab.errors == []


def test_who_left_fades_and_is_forgotten_and_memory_stays_bounded(page: WebPage, tab: Tab) -> None:
    titles = "[...document.querySelectorAll('.track')].map((card) => card.innerText.split('\\n')[0]).join()"
    page.show(make_step(0, tracks=(1, 2)), stages, [])
    tab.open(page.url)
    tab.wait(f"{titles} === 'Face 1,Face 2'")
    page.show(make_step(3, tracks=(1,)), stages, [])
    tab.wait("document.querySelector('.track[data-gone]')?.innerText.includes('left the picture')")
    for count in range(60, 1600):
        page.show(make_step(count / 20, tracks=(1,)), stages, [])
        if count % 100 == 0:
            time.sleep(0.1)
    tab.wait("sources.get('a.mp4')?.latest > 79.9")
    assert tab.run(titles) == "Face 1"
    assert 600 <= tab.run("sources.get('a.mp4').tracks.get(1).points.length") < 650  # 30 s, 20 a second


def test_a_phone_shows_everything_without_sideways_scrolling(page: WebPage, tab: Tab) -> None:
    tab.resize(360, 740, 2)
    with Run(page, [State("rtsp://a.very.long.host.name.example/with/a/long/path/to/the/stream-number-one.sdp")]):
        tab.open(page.url)
        sees_motion(tab)
        assert tab.run("document.documentElement.scrollWidth") <= 360
        assert tab.run("document.querySelector('.chart').clientWidth") > 280


STATUS = "document.querySelector('#connection')?.textContent"
OVER = "document.querySelector('#over').innerText"


def test_a_picture_that_cannot_be_shown_does_not_stop_the_page(page: WebPage, tab: Tab) -> None:
    page.show(make_step(0), stages, [])
    tab.open(page.url)
    tab.wait(f"{STATUS} === 'connected'")
    tab.run("""createImageBitmap = (usual => () => { createImageBitmap = usual;
        return Promise.reject(new Error("no memory")); })(createImageBitmap)""")
    with Run(page):
        sees_motion(tab)
    assert tab.run(STATUS) == "connected"


@pytest.mark.long
def test_viewers_come_back_when_another_run_does(page: WebPage, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._FAREWELL", 20.0)
    page.show(make_step(0), stages, [])
    tab.open(page.url)
    tab.wait(f"{STATUS} === 'connected'")
    page.close()
    tab.wait(f"{STATUS} === 'ended'")
    assert tab.run(OVER) == "The run has ended."
    with WebPage(EXPRESSIONS, urlsplit(page.url).port or 0) as later:
        later.show(make_step(0, source="later.mp4"), stages, [])
        tab.wait(f"{STATUS} === 'connected'")
        assert tab.wait("document.querySelector('h2')?.textContent") == "later.mp4"
        assert tab.run("document.querySelector('#over').hidden")


def test_a_stream_lost_for_good_and_the_error_stay_on_the_page(
    page: WebPage, tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._FAREWELL", 20.0)
    state = State("door")
    page.show(make_step(0, source="door"), stages, [state])
    tab.open(page.url)
    tab.wait(f"{STATUS} === 'connected'")
    state.state, state.error = "failed", "door: lost after 5 tries"
    page.close("door: lost after 5 tries")
    tab.wait(f"{STATUS} === 'ended'")
    time.sleep(1)  # longer than the first tries to come back take
    assert tab.run(STATUS) == "ended"
    assert tab.run("document.querySelector('.source .chip').textContent") == "failed"
    assert tab.run("document.querySelector('.source .error').innerText") == "door: lost after 5 tries"
    assert tab.run(OVER) == "The run has ended: door: lost after 5 tries"


def test_a_pause_holds_the_picture_and_ends_where_the_run_is(page: WebPage, tab: Tab) -> None:
    with Run(page):
        tab.open(page.url)
        sees_motion(tab)
        tab.run("document.querySelector('#pause').click()")
        time.sleep(2)  # what was on its way
        held = tab.run(PICTURE)
        time.sleep(0.5)
        assert tab.run(PICTURE) == held
        assert tab.run(STATUS) == "paused"
        tab.run("document.querySelector('#pause').click()")
        sees_motion(tab)


def test_the_picture_is_saved_as_it_is_marked(page: WebPage, tab: Tab) -> None:
    page.show(make_step(61.5, source="a/door cam.mp4"), stages, [])
    tab.open(page.url)
    tab.wait("document.querySelector('.source button')?.disabled === false")
    tab.run("window.kept = null; save = (blob, name) => { window.kept = { blob, name }; }")
    tab.run("document.querySelector('.source button').click()")
    tab.wait("kept")
    assert tab.run("[kept.name, kept.blob.type]") == ["door-cam.mp4-1-01.png", "image/png"]
    size, yellow = tab.run("""createImageBitmap(kept.blob).then((picture) => {
        const pen = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
        pen.drawImage(picture, 0, 0);
        return [[picture.width, picture.height], [...pen.getImageData(40, 60, 1, 1).data]]; })""")
    assert size == [160, 120]
    assert sum(abs(a - b) for a, b in zip(yellow, COLOURS["happiness"], strict=False)) < 40  # the box


def test_tags_of_close_faces_are_moved_apart(page: WebPage, tab: Tab) -> None:
    tab.open(page.url)
    boxes = [{"x": 100 + 4 * place, "y": 80 + 3 * place, "w": 50, "h": 60} for place in range(6)]
    tags = tab.wait(f"typeof placeTags === 'function' && placeTags({boxes}, Array(6).fill(110), 22, 640, 360)")
    for one in tags:
        assert 0 <= one["x"] <= 640 - 110 and 0 <= one["y"] <= 360 - 22
        for other in tags:
            apart = one["x"] + 110 <= other["x"] or one["y"] + 22 <= other["y"]
            assert one is other or apart or other["x"] + 110 <= one["x"] or other["y"] + 22 <= one["y"]


def test_a_chart_fills_from_the_right(page: WebPage, tab: Tab) -> None:
    for count in range(100):  # five seconds of thirty
        page.show(make_step(count / 20), stages, [State()])
    tab.open(page.url)
    tab.wait("!!document.querySelector('.chart')")
    edge, width = tab.wait(EDGE % COLOURS["happiness"]), tab.run("document.querySelector('.chart').width")
    assert 0.75 * width < edge < 0.9 * width


def test_what_is_unsure_or_poor_is_said(page: WebPage, tab: Tab) -> None:
    shown = make_step(1, "fear", tracks=(1, 2))
    unsure, poor = shown.predictions
    marked = (replace(unsure, label="unsure"), replace(poor, quality=0.1))
    faces = tuple(VisibleFace(one.track_id, one.box, one) for one in marked)
    page.show(replace(shown, predictions=marked, faces=faces), stages, [])
    tab.open(page.url)
    tab.wait("document.querySelectorAll('.track').length === 2")
    assert tab.wait("document.querySelector('.reading')?.textContent") == "unsure"
    notes = tab.run("[...document.querySelectorAll('.note')].map((note) => note.textContent)")
    assert notes == ["most likely fear 88 %", "poor: too small, blurred or turned"]
    assert tab.errors == []


def test_the_page_names_the_model_and_what_a_label_refers_to(tab: Tab) -> None:
    model = ServedModel("demo.dfer", "align-dfer", "cpu", "int8", 2.0, demo=True)
    with WebPage(EXPRESSIONS, port=0, model=model) as page:
        tab.open(page.url)
        tab.wait(f"{STATUS} === 'connected'")
        text = tab.run("document.body.innerText")
    for told in ("demo.dfer · align-dfer · cpu · int8", "Demo model", "a demonstration", "over the last 2 seconds"):
        assert told in text


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page: WebPage, tab: Tab) -> None:
    page.show(make_step(0), stages, [])
    page.show(make_step(1), stages, [])
    tab.open(page.url)
    tab.wait("document.querySelector('.source button')?.disabled === false")
    tab.run("document.querySelector('#stages').hidden = false")
    met = []
    for _ in range(4):
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        met.append(tab.run("document.activeElement.innerText"))
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert met == ["Pause", "Save rows (CSV)", "Save picture", "Time per stage"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_follows_the_theme_and_can_be_read_in_it(page: WebPage, tab: Tab, theme: str) -> None:
    page.show(make_step(0), stages, [])
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    tab.open(page.url)
    tab.wait("!!document.querySelector('.track')")
    luminance = """(([red, green, blue]) => 0.2126 * red + 0.7152 * green + 0.0722 * blue)(
        getComputedStyle(%s).%s.match(/[\\d.]+/g).map((value) => (value / 255) ** 2.2))"""
    ground = tab.run(luminance % ("document.body", "backgroundColor"))
    assert (ground > 0.5) == (theme == "light")
    for selector in ("h1", "#model", ".note", ".figures"):
        ink = tab.run(luminance % (f"document.querySelector({selector!r})", "color"))
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5  # WCAG AA


def test_a_form_takes_the_token(tab: Tab) -> None:
    with WebPage(EXPRESSIONS, port=0, token="a/b c") as page, Run(page):
        bare, _, _ = page.url.partition("?")
        tab.open(bare)
        for given, then in (("wrong", "document.body?.innerText.includes('not the token')"), ("a/b c", PICTURE)):
            tab.wait("document.activeElement?.type === 'password'")
            tab.run(f"document.querySelector('input').value = {given!r}; document.querySelector('button').click()")
            tab.wait(then)
        sees_motion(tab)
        assert tab.run("location.href") == bare


def test_the_token_opens_the_page_and_does_not_stay_in_its_address(tab: Tab) -> None:
    with WebPage(EXPRESSIONS, port=0, token="a/b c") as page, Run(page):
        bare, _, _ = page.url.partition("?")
        tab.open(bare + "?token=wrong")
        tab.wait("document.body?.innerText.includes('token in the address is not the right one')")
        tab.open(page.url)
        sees_motion(tab)
        assert tab.run("location.href") == bare
        tab.open(bare)  # the cookie serves
        sees_motion(tab)
