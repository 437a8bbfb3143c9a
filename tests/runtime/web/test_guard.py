"""Who may see the camera: tokens, cookies, names of this machine, origins."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from dfer.runtime.labels import EXPRESSIONS
from dfer.runtime.web import WebPage
from dfer.runtime.web.guard import Guard
from web_scene import Viewer

TOKEN = "pä/ss word"


@pytest.fixture(scope="module")
def page() -> Iterator[WebPage]:
    with WebPage(EXPRESSIONS, port=0, token=TOKEN) as page:
        yield page


@pytest.fixture(scope="module")
def unprotected() -> Iterator[WebPage]:
    with WebPage(EXPRESSIONS, port=0) as page:
        yield page


def get(page: WebPage, path: str, **headers: str | bytes) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def cookie_of(page: WebPage) -> str:
    parts = urlsplit(page.url)
    told = get(page, f"/?{parts.query}").headers["Set-Cookie"]
    assert "HttpOnly" in told and "SameSite=Strict" in told
    return str(told.partition(";")[0])


def refusal(page: WebPage, **headers: str) -> int:
    """The status with which a viewer's WebSocket is refused."""
    with pytest.raises(InvalidStatus) as refused:
        Viewer(page, additional_headers=headers)
    return refused.value.response.status_code


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/nothing", "/?token=wrong", "/?token="])
def test_without_the_token_nothing_is_served(page: WebPage, path: str) -> None:
    assert get(page, path).status == 401


def test_a_wrong_token_is_refused_wherever_it_stands(page: WebPage) -> None:
    cookie = cookie_of(page)
    assert get(page, "/", Authorization="Bearer wrong").status == 401
    assert get(page, "/", Cookie=cookie[:-1]).status == 401
    assert get(page, "/?token=wrong", Cookie=cookie).status == 401


def test_the_token_is_given_once_and_a_cookie_serves_then(page: WebPage) -> None:
    cookie = cookie_of(page)
    assert "pass" not in cookie
    assert get(page, "/page.js", Cookie=cookie).status == 200
    with Viewer(page, additional_headers={"Cookie": cookie}) as viewer:
        assert viewer.greeting["classes"]


def test_programs_send_the_token_as_a_header(page: WebPage) -> None:
    assert get(page, "/", Authorization=b"Bearer " + TOKEN.encode()).status == 200


def post(page: WebPage, body: bytes) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=10)
    connection.request("POST", "/", body)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_people_are_given_a_form_and_its_answer_is_a_cookie(page: WebPage) -> None:
    for path in ("/", "/?token=wrong"):
        asked = get(page, path, Accept="text/html,*/*")
        assert (asked.status, asked.headers["Content-Type"]) == (401, "text/html; charset=utf-8")
        assert "unsafe" not in asked.headers["Content-Security-Policy"]
    answer = post(page, b"token=" + quote(TOKEN).encode())
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert answer.headers["Set-Cookie"].partition(";")[0] == cookie_of(page)


@pytest.mark.parametrize("body", [b"", b"token=", b"token=wrong", b"\xff\x00", b"token=" + b"x" * 100_000])
def test_a_wrong_answer_to_the_form_gives_no_cookie(page: WebPage, body: bytes) -> None:
    answer = post(page, body)
    assert answer.status in (401, 413)
    assert "Set-Cookie" not in answer.headers


def test_the_cookie_outlives_a_restart_with_the_same_token_only(page: WebPage) -> None:
    name, _, value = cookie_of(page).partition("=")
    for token, status in ((TOKEN, 200), ("another", 401)):
        with WebPage(EXPRESSIONS, port=0, token=token) as later:
            port = urlsplit(later.url).port
            assert get(later, "/", Cookie=f"{re.sub('[0-9]+$', str(port), name)}={value}").status == status


def test_a_websocket_without_the_token_is_refused_and_not_written_of(
    page: WebPage, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal(page) == 401
    assert refusal(page, Authorization="Bearer wrong") == 401
    assert refusal(page, Authorization="Bearer wrong") == 401
    assert caplog.text == ""  # whoever is not let in could fill the terminal


def test_a_foreign_page_cannot_watch_even_with_our_cookie(page: WebPage, unprotected: WebPage) -> None:
    cookie = cookie_of(page)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://[", ""):
        assert refusal(page, Cookie=cookie, Origin=origin) == 403
        assert refusal(unprotected, Origin=origin) == 403
    own = f"http://{urlsplit(unprotected.url).netloc}"
    with Viewer(unprotected, additional_headers={"Origin": own}) as viewer:
        assert viewer.greeting["classes"]


def test_a_name_that_was_made_to_point_here_is_refused(unprotected: WebPage) -> None:
    assert get(unprotected, "/", Host="evil.example").status == 403
    assert get(unprotected, "/", Host="evil.example:8000").status == 403
    for host in ("localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST"):  # ports differ through a tunnel
        assert get(unprotected, "/", Host=host).status == 200


@given(host=st.binary(max_size=40), origin=st.none() | st.binary(max_size=40), cookie=st.binary(max_size=40))
def test_wild_headers_never_pass(host: bytes, origin: bytes | None, cookie: bytes) -> None:
    headers = [(b"host", host), (b"cookie", cookie)] + ([] if origin is None else [(b"origin", origin)])
    query = cookie if cookie.isascii() else b""
    for kind, token in (("http", None), ("http", "secret"), ("websocket", "secret")):
        passed, told = asyncio.run(ask(kind, headers, b"token=" + query, token))
        if token is None:
            assert not passed or re.fullmatch(rb"(?i)(localhost|127(\.\d+){3}|\[::1\])(:\d*)?", host)
        else:
            assert not passed and told == 401


async def ask(kind: str, headers: list[tuple[bytes, bytes]], query: bytes, token: str | None) -> tuple[bool, int]:
    """Whether a request gets through to the application, and the status if not."""
    passed: list[bool] = []
    told: list[dict[str, Any]] = []

    async def application(*_: object) -> None:
        passed.append(True)

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read of a request that is refused")

    scope = {"type": kind, "path": "/", "headers": headers, "query_string": query, "extensions": {}}
    await Guard(application, token, "dfer")(scope, receive, send)
    return bool(passed), told[0]["status"] if told else 0


def test_the_page_brings_everything_itself(unprotected: WebPage) -> None:
    response = get(unprotected, "/")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
