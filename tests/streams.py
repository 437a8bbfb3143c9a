"""Servers of live video, for tests: they can be cut off, fall silent, and come back at the same address."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

PERIOD = 0.02  # seconds between pictures


class StreamServer:
    """A TCP server; what it says to a client is `serve`'s. Use as a context manager.

    silent: while set, connections stay open and nothing comes.
    """

    def __init__(self) -> None:
        self.silent = threading.Event()
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen; after `close`, at the same address."""
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def paced(self) -> Iterator[int]:
        """0, 1, 2, … one each period."""
        for number in itertools.count():
            while self.silent.is_set():
                time.sleep(PERIOD)
            yield number
            time.sleep(PERIOD)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # the client went, or we close
            self.serve(client)

    def close(self) -> None:
        """Stop listening and break all connections off."""
        for end in (self._listener, *self._clients):
            with suppress(OSError):  # gone by itself
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> StreamServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MjpegServer(StreamServer):
    """Motion JPEG over HTTP, as cheap network cameras send it. damaged: numbers of pictures sent as garbage."""

    def __init__(self, damaged: frozenset[int] = frozenset()) -> None:
        self.damaged = damaged
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://admin:s3cret@127.0.0.1:{self.port}/live"

    def serve(self, client: socket.socket) -> None:
        while b"\r\n\r\n" not in client.recv(65536):
            pass
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in self.paced():
            picture = cv2.imencode(".jpg", np.full((48, 64, 3), 2 * number % 256, np.uint8))[1].tobytes()
            if number in self.damaged:
                picture = picture[:100] + bytes(len(picture) - 100)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            client.sendall(head.encode() + picture + b"\r\n")


class RtspServer(StreamServer):
    """RTSP as far as a player needs it (RFC 2326): an MPEG transport stream in RTP packets (RFC 2250) on the same
    connection. It plays the file `transport`, whose 188-byte packets are sent seven at a time, over and over."""

    def __init__(self, transport: Path) -> None:
        self._transport = transport.read_bytes()
        super().__init__()

    @property
    def url(self) -> str:
        return f"rtsp://admin:s3cret@127.0.0.1:{self.port}/live"

    def serve(self, client: socket.socket) -> None:
        requests = client.makefile("rb")
        while line := requests.readline():
            method = line.split()[0].decode()
            headers = dict(head.split(b":", 1) for head in iter(requests.readline, b"\r\n"))
            answer = [f"RTSP/1.0 200 OK\r\nCSeq:{headers[b'CSeq'].decode().strip()}"]
            body = ""
            if method == "OPTIONS":
                answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
                answer.append(f"Content-Type: application/sdp\r\nContent-Length: {len(body)}")
            elif method == "SETUP":
                answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1")
            else:
                answer.append("Session: 1")
            client.sendall("\r\n".join([*answer, "", body]).encode())
            if method == "PLAY":
                break
        size = 7 * 188
        packets = [self._transport[start : start + size] for start in range(0, len(self._transport), size)]
        for number in self.paced():
            packet = struct.pack(">BBHII", 0x80, 33, number % 65536, 0, 1) + packets[number % len(packets)]
            client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
