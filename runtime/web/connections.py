"""Connection limits: at most `MOST` at once, including WebSockets, and none idle for long.

Idle connections cannot lock anybody out: when there are too many, the one idle longest is closed. A new connection is
refused only if all others are active.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST = 64
"""Connections at once, viewers included. Each is a file descriptor, of which a run may have few."""
BACKLOG = 16
"""Connections that may wait to be accepted; that many are accepted at once, before `MOST` can be enforced."""
PATIENCE = 10.0
"""Seconds to send a whole request with its headers, from when one may be sent; and to receive the next part of a
response, some hundred kB."""

_FULL = b"Too many viewers; come back when somebody has left.\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP/1.1 with these limits. A WebSocket starts as such a connection and remains counted."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._since = self.loop.time()
        self._patience = self.loop.call_later(PATIENCE, self._hang_up)
        if len(self.connections) > MOST:
            silent = [other for other in self.connections if isinstance(other, BoundedHttp) and other.silent]
            longest = min(silent, key=lambda other: other._since)
            if longest is self:
                transport.write(_REFUSAL)
                transport.close()
            else:
                longest.transport.abort()
                self.connections.discard(longest)

    @property
    def silent(self) -> bool:
        """Whether no request is being processed."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        self._patience.cancel()
        self._since = self.loop.time()
        self._patience = self.loop.call_later(PATIENCE, self._hang_up)
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._waiting = self.loop.call_later(PATIENCE, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._waiting.cancel()
        super().resume_writing()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._patience.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.silent:
            self.transport.abort()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which is closed when there is no viewer, and does not log refused ones."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:  # a request that `websockets` rejects, which uvicorn would leave open
            self.transport.abort()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:  # a refusal also completes the handshake; uvicorn would log each to the terminal
            self.handshake_complete = True
