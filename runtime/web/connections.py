"""Who holds a connection: never more than `MOST` at once, WebSockets counted, and none for long without a request.

Whoever opens connections and says nothing locks nobody out: when there are too many, the one that has been silent for
longest goes. Only where all are viewers is a newcomer refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST = 64
"""Connections at once, viewers included. Each is a file descriptor, of which a run may have few."""
BACKLOG = 16
"""Connections that may wait to be accepted; so many are accepted in one go, before `MOST` can be held."""
PATIENCE = 10.0
"""Seconds to say a whole request, headers and all, from when it is this connection's turn to speak; and to take the
next part of an answer, some hundred kB."""

_FULL = b"Too many viewers; come back when somebody has left.\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP/1.1 with these limits. A WebSocket begins as such a connection and stays counted as one."""

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
        """Whether no request is being answered."""
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
    """uvicorn's WebSocket, which never stays open without a viewer, and says nothing of those it refuses."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:  # a request that `websockets` does not understand, which uvicorn leaves so
            self.transport.abort()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:  # a refusal completes the handshake, too; uvicorn would write of each to the terminal
            self.handshake_complete = True
