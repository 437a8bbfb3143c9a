"""A server in a thread of its own, guarded and within limits, whatever it serves."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from .connections import BACKLOG, BoundedHttp, BoundedWebSocket
from .guard import Guard


class Service:
    """Serves `app` to those whom `Guard` lets in, on a listening socket, from when it is made until `stop`.

    token: what they must know; None for this machine only. name: of the thread.
    """

    def __init__(self, listener: socket.socket, app: ASGIApp, token: str | None, name: str) -> None:
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        settings = uvicorn.Config(
            Guard(app, token, cookie=f"dfer-{listener.getsockname()[1]}"),
            http=BoundedHttp,
            ws=BoundedWebSocket,
            ws_max_size=1024,  # viewers have little to say
            ws_ping_interval=None,  # acknowledgements tell more
            ws_per_message_deflate=False,  # JPEG does not shrink
            backlog=BACKLOG,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
        )
        self._uvicorn = uvicorn.Server(settings)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End within a second; who is still being answered is cut off."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout=0.5)
        if self._thread.is_alive() and self._loop is not None:
            with suppress(RuntimeError):  # it ended just now
                self._loop.call_soon_threadsafe(self._cut_off, None)
            self._thread.join(timeout=0.5)
        self._listener.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._uvicorn.serve(sockets=[self._listener])

    def _cut_off(self, client: tuple[str, int] | None) -> None:
        """Drop a connection (all, for None) with what still waits to be sent; closing politely would wait for that."""
        for connection in list(self._uvicorn.server_state.connections):
            if client is None or getattr(connection, "client", None) == client:
                connection.transport.abort()
