"""An HTTP server in a separate thread, with access control and connection limits."""

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
    """Serves `app` to clients admitted by `Guard`, on a listening socket, from its creation until `stop`.

    token: what they must send; None for this machine only. name: of the thread.
    """

    def __init__(self, listener: socket.socket, app: ASGIApp, token: str | None, name: str) -> None:
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        settings = uvicorn.Config(
            Guard(app, token, cookie=f"dfer-{listener.getsockname()[1]}"),
            http=BoundedHttp,
            ws=BoundedWebSocket,
            ws_max_size=1024,  # viewers send only short messages
            ws_ping_interval=None,  # acknowledgements replace pings
            ws_per_message_deflate=False,  # JPEG does not compress
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
        """Stop within a second; responses still in progress are cut off."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout=0.5)
        if self._thread.is_alive() and self._loop is not None:
            with suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._cut_off, None)
            self._thread.join(timeout=0.5)
        self._listener.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._uvicorn.serve(sockets=[self._listener])

    def _cut_off(self, client: tuple[str, int] | None) -> None:
        """Drop a client's connection (all, for None) with unsent data; a regular close would wait for that."""
        for connection in list(self._uvicorn.server_state.connections):
            if client is None or getattr(connection, "client", None) == client:
                connection.transport.abort()
