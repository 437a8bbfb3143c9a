"""The page under load: whoever opens connections locks out nobody, and takes nothing from the run."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.web import WebPage
from web_scene import Run, Viewer, make_step, stages


@pytest.fixture
def page() -> Iterator[WebPage]:
    with WebPage(EXPRESSIONS, port=0) as page:
        yield page


def connect(page: WebPage) -> socket.socket:
    parts = urlsplit(page.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def status(page: WebPage) -> int:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse().status
    connection.close()
    return answer


def test_silent_connections_lock_nobody_out(page: WebPage) -> None:
    with ExitStack() as stack, Run(page), Viewer(page) as before:
        for number in range(200):
            stack.enter_context(connect(page))
            if number % 10 == 0:
                before.round()
        assert status(page) == 200
        with Viewer(page) as viewer:
            viewer.round()
        before.round()


def test_who_does_not_finish_a_request_is_hung_up_on(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.connections.PATIENCE", 1.0)
    for said in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        with connect(page) as slow:
            slow.sendall(said)
            with suppress(ConnectionResetError):
                assert slow.recv(1) == b""
    with connect(page) as slow:  # after a request that was answered, too
        slow.sendall(b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = slow.recv(1 << 16)
        slow.sendall(b"GET / HTTP/1.1\r\n")
        with suppress(ConnectionResetError):
            while data := slow.recv(1 << 16):
                answer += data
    assert answer.count(b"HTTP/1.1 200") == 1
    with Run(page), Viewer(page) as viewer:  # who watches is not
        for _ in range(15):
            viewer.round()


@pytest.mark.long
def test_who_asks_for_all_rows_and_takes_none_is_hung_up_on(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfer.runtime.web.connections.PATIENCE", 1.0)
    for moment in range(500):
        page.show(make_step(moment, tracks=tuple(range(100))), stages, [])
    taken = []
    for reads_after in (0.0, 3.0):
        with connect(page) as viewer:
            viewer.sendall(b"GET /rows.csv HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            time.sleep(reads_after)
            taken.append(0)
            with suppress(ConnectionResetError):
                while data := viewer.recv(1 << 17):
                    taken[-1] += len(data)
                    time.sleep(0.03)
    assert taken[1] < taken[0]  # the slow one has them all


def test_more_viewers_than_there_is_room_for_are_refused_and_the_others_go_on(
    page: WebPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.web.connections.MOST", 4)
    with ExitStack() as stack, Run(page):
        viewers = [stack.enter_context(Viewer(page)) for _ in range(4)]
        with connect(page) as late:
            assert late.recv(1 << 10).startswith(b"HTTP/1.1 503 ")
        for viewer in viewers:
            viewer.round()
        stack.pop_all().close()
    assert status(page) == 200


HANDSHAKE = (
    b"GET /watch HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize("strange", [b"Content-Length: 1", b"Cookie: a=" + b"x" * 9000], ids=["body", "long line"])
def test_strange_handshakes_of_who_lacks_the_token_hold_no_place(
    strange: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfer.runtime.web.connections.MOST", 4)
    with WebPage(EXPRESSIONS, port=0, token="pass") as page, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(page)).sendall(HANDSHAKE + strange + b"\r\n\r\n")
        with Viewer(page, additional_headers={"Authorization": "Bearer pass"}) as viewer:
            assert viewer.greeting["classes"]


FLOOD = """
import resource, socket, sys
from urllib.parse import urlsplit
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.web import WebPage
with WebPage(EXPRESSIONS, port=0) as page:
    print(urlsplit(page.url).port, flush=True)
    sys.stdin.readline()
    for _ in range(20):  # what a run needs: files, and threads that open some
        with open(sys.executable, "rb"):
            pass
    print("alive", flush=True)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be limited")
def test_a_flood_of_connections_leaves_descriptors_for_the_run(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    port = int(run.stdout.readline())
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        output, errors = run.communicate("\n", timeout=120)
    assert (output, errors) == ("alive\n", "")
