"""Addresses of streams: passwords as people write them, and why a stream does not open."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dfer.runtime.errors import DferError
from dfer.runtime.sources import open_source
from dfer.runtime.sources.addresses import why_closed, with_encoded_credentials


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("rtsp://me:a/b@host/live", "rtsp://me:a%2Fb@host/live"),
        ("rtsp://me:a#b@host:8554/live", "rtsp://me:a%23b@host:8554/live"),
        ("rtsp://me:a?b@host/live", "rtsp://me:a%3Fb@host/live"),
        ("rtsp://me:a@b@host/live", "rtsp://me:a%40b@host/live"),
        ("rtsp://me:50%@host/live", "rtsp://me:50%25@host/live"),
        ("rtsp://me:pä ss@host/live", "rtsp://me:p%C3%A4%20ss@host/live"),
        ("rtsp://me:a%2Fb@host/live?token=x@y", "rtsp://me:a%2Fb@host/live?token=x@y"),
        ("http://host:8080/users/me@home/live", "http://host:8080/users/me@home/live"),
        ("http://[::1]:8080/me@home", "http://[::1]:8080/me@home"),
        ("http://host/live", "http://host/live"),
    ],
)
def test_credentials_are_encoded_where_they_must_be(written: str, sent: str) -> None:
    assert with_encoded_credentials(written) == sent


@contextmanager
def server(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers every connection's first words with `answer`; gives its port and what was said."""
    said: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(5)
                said.append(connection.recv(4096))
                with suppress(OSError):  # who has read enough hangs up
                    connection.sendall(answer[:20])
                    time.sleep(0.05)  # in two packets
                    connection.sendall(answer[20:])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], said
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    ("status", "login", "told"),
    [
        ("401 Unauthorized", "me:wrong@", "check the address"),  # how to log in it does not say
        ("401 Unauthorized", "", "wants a user name and a password"),
        ("404 Not Found", "", "no such stream"),
        ("200 OK", "", "not with video"),
    ],
)
def test_what_the_server_says_is_told(scheme: str, status: str, login: str, told: str) -> None:
    with server(f"{scheme.upper()}/1.0 {status}\r\n\r\n".encode()) as (port, _):
        assert told in why_closed(f"{scheme}://{login}127.0.0.1:{port}/live")


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        (["Digest"], "check the address"),
        (["Digest", "Basic"], "check the address"),
        (["Basic"], "refuses the user name or the password"),
    ],
)
def test_the_password_is_shown_only_to_a_camera_that_wants_it_in_clear(ways: list[str], told: str) -> None:
    offered = "".join(f'WWW-Authenticate: {way} realm="cam"\r\n' for way in ways)
    with server(f"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n{offered}\r\n".encode()) as (port, said):
        assert told in why_closed(f"rtsp://me:right@127.0.0.1:{port}/live")
    shown = [b"Authorization" in request for request in said]
    assert shown == ([False, True] if ways == ["Basic"] else [False])


def test_a_dead_port_is_told_from_a_wrong_password_and_no_secret_is(recwarn: pytest.WarningsRecorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DferError, match=f"nothing listens at port {port} of 127.0.0.1") as dead:
        open_source(f"http://me:s3c/ret@127.0.0.1:{port}/live")
    assert "s3c" not in str(dead.value)
    with server(b"HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n") as (port, said):
        with pytest.raises(DferError, match=r"refuses the user name or the password \(401\)") as refused:
            open_source(f"http://me:s3c/ret@127.0.0.1:{port}/live")
        assert "s3c" not in str(refused.value)
        assert all(b"s3c/ret" not in request.partition(b"\r\n")[0] for request in said)
