"""The live page as a person sees it, in a real Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from chromium import Chromium, Tab, start_chromium
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.outputs.palette import COLOURS
from dfer.runtime.web import WebPage
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
    with Run(page, start=10.0):
        tab.open(page.url)
        sees_motion(tab)
        edge = EDGE % COLOURS["anger"]
        places = [tab.wait(edge)]
        for _ in range(3):
            tab.wait(f"{edge} < {places[-1] - 4}")
            places.append(tab.run(edge))
        assert tab.run(EDGE % COLOURS["happiness"]) < places[-1]
        assert tab.run("document.querySelector('.reading').textContent") == "anger 88 %"
        assert tab.run("document.querySelector('.source .chip').textContent") == "running"
        assert tab.wait("document.querySelector('#stages tbody')?.innerText").startswith("encode")
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


def test_viewers_come_back_when_the_run_does(page: WebPage, tab: Tab) -> None:
    status = "document.querySelector('#connection')?.textContent"
    page.show(make_step(0), stages, [])
    tab.open(page.url)
    tab.wait(f"{status} === 'live'")
    page.close()
    tab.wait(f"{status}?.startsWith('ended')")
    with WebPage(EXPRESSIONS, urlsplit(page.url).port or 0) as later:
        later.show(make_step(0, source="later.mp4"), stages, [])
        tab.wait(f"{status} === 'live'")
        assert tab.wait("document.querySelector('h2')?.textContent") == "later.mp4"


def test_the_token_opens_the_page_and_does_not_stay_in_its_address(tab: Tab) -> None:
    with WebPage(EXPRESSIONS, port=0, token="a/b c") as page, Run(page):
        bare, _, _ = page.url.partition("?")
        tab.open(bare + "?token=wrong")
        tab.wait("document.body?.innerText.includes('needs its token')")
        tab.open(page.url)
        sees_motion(tab)
        assert tab.run("location.href") == bare
        tab.open(bare)  # the cookie serves
        sees_motion(tab)
