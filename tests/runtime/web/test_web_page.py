"""The live page's server: what viewers are told, that they slow nobody, and how it starts and ends."""

from __future__ import annotations

import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from dfer.runtime.errors import DferError
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.outputs.palette import COLOURS
from dfer.runtime.outputs.tables import CsvSink
from dfer.runtime.timing import StageTimes
from dfer.runtime.web import WebPage
from dfer.runtime.web.listening import listen
from helpers import ctrl_c_as_on_windows
from web_scene import BOX, Run, State, Viewer, make_step, stages


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round without news, and nobody is given up, though this machine stands still for seconds."""
    monkeypatch.setattr("dfer.runtime.web.server._HEARTBEAT", 60.0)
    monkeypatch.setattr("dfer.runtime.web.server._STALL", 60.0)
    monkeypatch.setattr("dfer.runtime.web.server._FAREWELL", 20.0)


@pytest.fixture
def page() -> Iterator[WebPage]:
    with WebPage(EXPRESSIONS, port=0) as page:
        yield page


def test_a_viewer_gets_the_picture_together_with_what_is_seen_in_it(page: WebPage) -> None:
    step = make_step(1.5, "fear")
    page.show(step, stages, [State(dropped=3)])
    with Viewer(page) as viewer:
        (source,) = viewer.round()["sources"]
    assert (source["name"], source["state"], source["dropped"], source["error"]) == ("a.mp4", "running", 3, None)
    picture = source["picture"]
    assert (picture["time"], picture["width"], picture["height"]) == (1.5, 160, 120)
    assert np.abs(picture["image"].astype(int) - step.frame.image).mean() < 4  # JPEG, and red is not blue
    (face,) = picture["faces"]
    assert face == {"track": 1, "box": list(BOX), "label": "fear", "confidence": 0.88, "warmup": False, "poor": False}


def test_classes_and_their_colours_come_from_the_palette(page: WebPage) -> None:
    with Viewer(page) as viewer:
        told = {entry["name"]: entry["colour"] for entry in viewer.greeting["classes"]}
    assert told == {name: "#{:02x}{:02x}{:02x}".format(*COLOURS[name]) for name in EXPRESSIONS}


def test_a_large_picture_is_shrunk_and_its_boxes_stay_in_the_source_s_pixels(page: WebPage) -> None:
    page.show(make_step(0, size=(1920, 1080)), stages, [])
    with Viewer(page) as viewer:
        picture = viewer.round()["sources"][0]["picture"]
    assert picture["image"].shape == (540, 960, 3)
    assert (picture["width"], picture["height"], picture["faces"][0]["box"]) == (1920, 1080, list(BOX))


def test_who_comes_late_sees_the_last_thirty_seconds(page: WebPage) -> None:
    for second in range(100):
        page.show(make_step(second), stages, [])
    with Viewer(page) as viewer:
        points = viewer.round()["sources"][0]["points"]
    assert [point["time"] for point in points] == list(range(69, 100))
    assert points[0]["shares"] == [0.88, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02]


def test_two_viewers_are_each_told_every_prediction_once(page: WebPage) -> None:
    with Viewer(page) as one, Viewer(page) as two:
        heard: list[list[float]] = [[], []]
        for count in range(1, 13):
            page.show(make_step(count), stages, [])
            if count % 3 == 0:  # rounds are fewer than predictions
                for viewer, times in zip((one, two), heard, strict=True):
                    while not times or times[-1] < count:
                        times += [point["time"] for source in viewer.round()["sources"] for point in source["points"]]
        assert heard == [list(range(1, 13))] * 2


def test_who_is_slow_gets_the_newest_picture_and_no_old_ones(page: WebPage) -> None:
    with Viewer(page) as viewer:
        for moment in (0, 1):
            page.show(make_step(moment), stages, [])
            assert viewer.round(acknowledge=False)["sources"][0]["picture"]["time"] == moment
        for moment in (2, 3, 4):
            page.show(make_step(moment), stages, [])
            time.sleep(0.15)  # longer than a round
        viewer.acknowledge()
        (source,) = viewer.round()["sources"]
        assert source["picture"]["time"] == 4
        assert [point["time"] for point in source["points"]] == [2, 3, 4]


def test_a_source_that_begins_between_two_rounds_loses_nothing(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._ROUNDS", 1.0)  # a second for what follows the last round
    with Viewer(page) as slow, Viewer(page) as quick:
        for number in range(4):  # more than a viewer is sent before it acknowledges
            page._board.stages = [StageTimes("encode", number, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
            quick.round()
        page.show(make_step(1.0), stages, [State()])
        slow.acknowledge()
        heard: list[float] = []
        while not heard:
            heard = [point["time"] for source in slow.round()["sources"] for point in source["points"]]
        assert heard == [1.0]


def test_who_stalls_slows_nobody_and_is_closed(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._STALL", 2.0)
    with Run(page), Viewer(page) as stalled, Viewer(page) as lively:
        moments = [lively.round()["sources"][0]["picture"]["time"] for _ in range(30)]
        assert moments == sorted(set(moments))  # a new picture each time
        sent = 0
        with pytest.raises(ConnectionClosed):
            while True:
                stalled.socket.recv(timeout=60)
                sent += 1
        assert sent <= 2  # all that was ever waiting for the one who stalls
        lively.round()


def test_who_does_not_even_read_is_cut_off(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.server._STALL", 2.0)
    deaf = socket.create_connection(("127.0.0.1", int(page.url.split(":")[2].strip("/"))))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(
        b"GET /watch HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    page.show(make_step(0, size=(960, 720)), stages, [])
    with Run(page), Viewer(page) as lively:
        for _ in range(20):
            lively.round()
        deaf.settimeout(60)
        with suppress(ConnectionResetError):  # or a plain end
            while deaf.recv(1 << 20):
                pass
    deaf.close()


def test_a_state_that_changes_between_pictures_is_told(page: WebPage) -> None:
    state = State("door", "running")
    page.show(make_step(0, source="door"), stages, [state])
    with Viewer(page) as viewer:
        assert viewer.round()["sources"][0]["state"] == "running"
        state.state, state.error = "reconnecting", "no answer"
        (source,) = viewer.round()["sources"]
    assert (source["state"], source["error"], source["picture"]) == ("reconnecting", "no answer", None)


def test_sources_are_told_in_the_order_of_the_run(page: WebPage) -> None:
    states = [State("one", "opening"), State("two"), State("three", "failed", error="gone")]
    page.show(make_step(0, source="two"), stages, states)
    with Viewer(page) as viewer:
        told = viewer.round()["sources"]
    assert [(source["name"], source["picture"] is None) for source in told] == [
        ("one", True),
        ("two", False),
        ("three", True),
    ]


def test_no_credentials_are_sent(page: WebPage) -> None:
    place = "rtsp://admin:s3cret/x@10.0.0.7/live?token=abc"
    state = State(place, "reconnecting", error=f"cannot open {place}; trying again")
    page.show(make_step(0, source=place), stages, [state])
    with Viewer(page) as viewer:
        data = viewer.socket.recv(timeout=60)
    assert isinstance(data, bytes)
    assert b"10.0.0.7/live" in data
    assert not any(secret in data for secret in (b"admin", b"s3cret", b"abc"))


def test_stage_times_are_asked_for_only_while_somebody_watches(page: WebPage) -> None:
    asked = []

    def count() -> list[StageTimes]:
        asked.append(1)
        return stages()

    page.show(make_step(0), count, [])
    assert not asked
    with Viewer(page) as viewer:
        assert viewer.round()["stages"] == []
        page.show(make_step(1), count, [])
        page.show(make_step(2), count, [])
        (stage,) = viewer.round()["stages"]
    assert stage == asdict(stages()[0])
    assert len(asked) == 1  # at most once a second


def test_a_source_that_begins_again_forgets_what_was(page: WebPage) -> None:
    for moment in (50, 51, 0, 1):
        page.show(make_step(moment), stages, [])
    with Viewer(page) as viewer:
        assert [point["time"] for point in viewer.round()["sources"][0]["points"]] == [0, 1]


def test_of_many_files_the_last_are_seen_and_the_memory_for_the_others_is_free(page: WebPage) -> None:
    states = [State(f"{number}.mp4", "opening") for number in range(40)]
    frames = []
    for state in states:
        step = make_step(0, source=state.name)
        frames.append(weakref.ref(step.frame))
        page.show(step, stages, states)
        del step
        state.state = "ended"
    assert sum(frame() is not None for frame in frames) < 20
    with Viewer(page) as viewer:
        told = viewer.round()["sources"]
    assert [source["name"] for source in told if source["picture"]] == [f"{number}.mp4" for number in range(23, 40)]
    assert [len(source["points"]) for source in told] == [1] * 40  # who watches is told every prediction


def test_the_rows_can_be_kept_as_a_table(page: WebPage, tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "o.csv", EXPRESSIONS)
    for count in range(100):
        step = make_step(count)
        page.show(step, stages, [])
        sink.write(step)
    sink.close()
    with urlopen(page.url + "rows.csv", timeout=60) as answer:
        assert "expressions.csv" in answer.headers["Content-Disposition"]
        assert answer.read() == (tmp_path / "o.csv").read_bytes()


def test_many_rows_are_kept_in_few_messages_so_that_the_run_goes_on_beside(page: WebPage) -> None:
    for count in range(100):
        page.show(make_step(count, tracks=tuple(range(100))), stages, [])
    place = urlsplit(page.url)
    with socket.create_connection((str(place.hostname), place.port or 80), 30) as connection:
        connection.sendall(f"GET /rows.csv HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb")
        while answer.readline() != b"\r\n":
            pass
        messages = []
        while size := int(answer.readline(), 16):  # chunks (RFC 9112, 7.1)
            messages.append(answer.read(size + 2)[:-2])
    assert b"".join(messages).count(b"\n") == 10_001
    assert len(messages) < 20


def test_a_number_that_is_no_port_is_refused() -> None:
    for port in (65536, 70000, -1):
        with pytest.raises(DferError, match=f"port: {port} is none"):
            WebPage(EXPRESSIONS, port)


def test_on_windows_no_two_servers_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    stand_in = socket.SO_KEEPALIVE
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", stand_in, raising=False)
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, stand_in) == 1
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_a_port_that_is_taken_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DferError, match=f"port {port} of 127.0.0.1 is taken"):
            WebPage(EXPRESSIONS, port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_network_is_served_only_with_a_token(host: str) -> None:
    with pytest.raises(DferError, match="token: is needed"):
        WebPage(EXPRESSIONS, 0, host)
    for token, words in (("", "empty"), ("secret ", "begins or ends with a space")):
        with pytest.raises(DferError, match=words):
            WebPage(EXPRESSIONS, 0, host, token=token)


def test_a_host_that_is_not_ours_is_one_clear_error() -> None:
    with pytest.raises(DferError, match="host: nowhere"):
        WebPage(EXPRESSIONS, 0, "nowhere.invalid", "secret")
    with pytest.raises(DferError, match="cannot be served at 192"):
        WebPage(EXPRESSIONS, 0, "192.0.2.1", "secret")  # an address for documentation, nobody's


def test_the_url_is_what_a_viewer_opens() -> None:
    with WebPage(EXPRESSIONS, 0, token="a/b c") as page:
        assert page.url.startswith("http://127.0.0.1:") and page.url.endswith("/?token=a%2Fb%20c")
    with WebPage(EXPRESSIONS, 0, "0.0.0.0", token="x") as page:
        assert socket.gethostname() in page.url


def test_at_the_end_viewers_are_told_and_the_port_is_free(page: WebPage) -> None:
    page.show(make_step(0), stages, [])
    with Viewer(page) as viewer, Viewer(page) as stalled:
        assert viewer.round()["over"] is None
        page.close("no answer from rtsp://me:secret@door")
        assert viewer.round(acknowledge=False)["over"] == "no answer from rtsp://door"
        with pytest.raises(ConnectionClosed) as ended:
            viewer.round()
        assert ended.value.rcvd is not None and ended.value.rcvd.code == 1001  # "going away"
        port = int(page.url.split(":")[2].strip("/"))
        with WebPage(EXPRESSIONS, port):
            pass
        del stalled


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_ends_a_page_that_stays(page: WebPage) -> None:
    with ctrl_c_as_on_windows():
        page.wait()
