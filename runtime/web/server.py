"""The server behind the page: one thread, any number of viewers, none of which can slow down the run or another.

Nothing is queued for a viewer. Updates are made in rounds, at most `_ROUNDS` a second and only while a viewer waits for
one. A viewer is sent the newest round whenever it has fewer than `_AHEAD` unacknowledged, so slow ones see fewer
images, but no old ones, and those that stop acknowledging are closed after `_STALL` seconds. At the end all still
connected are sent the final source states and the reason.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..outputs.tables import csv_head
from ..predictions import Prediction
from .board import Board, SourceSnapshot
from .messages import Picture, Round, ServedModel, greeting, news, picture_of
from .service import Service

_ROUNDS = 15  # a second
_HEARTBEAT = 2.0  # seconds after which a round is sent even without changes, as a sign of life
_AHEAD = 2  # rounds that may be unacknowledged
_STALL = 8.0  # seconds
_AT_ONCE = 1000  # rows sent together
_FAREWELL = 0.4  # seconds to send viewers the final round
_STATIC = Path(__file__).parent / "static"


class _Viewer:
    def __init__(self) -> None:
        self.credit = anyio.Semaphore(_AHEAD, max_value=_AHEAD)
        self.told = 0  # number of the last round
        self.seen: dict[str, int] = {}  # number of the last picture, per source
        self.mark = 0  # number of the last prediction


class PageServer(Service):
    """Serves the page and the updates of `board` on a listening socket, in a separate thread, until `close`."""

    def __init__(
        self,
        listener: socket.socket,
        board: Board,
        classes: Sequence[str],
        model: ServedModel | None,
        token: str | None,
    ) -> None:
        self._board, self._greeting = board, greeting(classes, model)
        self._classes = tuple(classes)
        self._round, self._made = Round(0, [], {}, ()), 0.0
        self._over: str | None = None
        self._viewers = 0
        app = Starlette(
            routes=[
                _file_route("/", "page.html", "text/html"),
                _file_route("/page.css", "page.css", "text/css"),
                _file_route("/page.js", "page.js", "text/javascript"),
                Route("/rows.csv", self._rows),
                WebSocketRoute("/watch", self._watch),
            ]
        )
        super().__init__(listener, app, token, "web page")

    @property
    def watched(self) -> bool:
        return self._viewers > 0

    def close(self, reason: str) -> None:
        """Stop within a second and a half: viewers are notified, those that do not leave are disconnected.

        reason: of an unexpected end; else empty.
        """
        self._over = reason
        patience = monotonic() + _FAREWELL
        while self._viewers and monotonic() < patience:
            sleep(0.01)
        self.stop()

    async def _serve(self) -> None:
        self._hunger = anyio.Event()  # set when a viewer waits for a round
        self._told = anyio.Event()  # set when there is a new round
        async with anyio.create_task_group() as group:
            group.start_soon(self._make_rounds)
            await super()._serve()
            group.cancel_scope.cancel()

    async def _make_rounds(self) -> None:
        while True:
            await self._hunger.wait()
            start = monotonic()
            snapshots, stages, last = self._board.snapshots(), self._board.stages, self._round
            over = self._over
            known = (last.snapshots, last.stages, last.over)
            if (snapshots, stages, over) != known or start - self._made >= _HEARTBEAT:
                self._made = start
                pictures = await anyio.to_thread.run_sync(self._encode, snapshots)
                self._round = Round(last.number + 1, snapshots, pictures, stages, over)
                self._hunger, told, self._told = anyio.Event(), self._told, anyio.Event()
                told.set()
            await anyio.sleep(max(0.0, 1 / _ROUNDS - (monotonic() - start)))

    def _encode(self, snapshots: list[SourceSnapshot]) -> dict[str, Picture]:
        """Return the newest picture of every source; unchanged ones are not encoded again."""
        pictures = {}
        for snapshot in snapshots:
            if snapshot.step is not None:
                picture = self._round.pictures.get(snapshot.name)
                if picture is None or picture.number != snapshot.frames:
                    picture = picture_of(snapshot.step, snapshot.frames)
                pictures[snapshot.name] = picture
        return pictures

    async def _watch(self, connection: WebSocket) -> None:
        await connection.accept()
        if not self._viewers:
            self._round, self._made = Round(0, [], {}, ()), monotonic()  # the last round may be old
        viewer = _Viewer()
        self._viewers += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear, connection, viewer, group.cancel_scope)
                await self._tell(connection, viewer)
                group.cancel_scope.cancel()
        finally:
            self._viewers -= 1

    async def _hear(self, connection: WebSocket, viewer: _Viewer, scope: anyio.CancelScope) -> None:
        """Receive acknowledgements (any message is one) until the viewer leaves."""
        while (await connection.receive())["type"] != "websocket.disconnect":
            if viewer.credit.value < _AHEAD:
                viewer.credit.release()
        scope.cancel()

    async def _tell(self, connection: WebSocket, viewer: _Viewer) -> None:
        """Send round after round until the viewer leaves or stalls."""
        try:
            await connection.send_text(self._greeting)
            while True:
                with anyio.fail_after(_STALL):
                    await viewer.credit.acquire()
                told, points = await self._next_points(viewer)
                message = news(told, viewer.seen, points)
                viewer.seen = {name: picture.number for name, picture in told.pictures.items()}
                with anyio.fail_after(_STALL):
                    await connection.send_bytes(message)
                if told.over is not None:
                    return await connection.close(1001)  # "going away"
        except TimeoutError:
            self._cut_off(connection.client)
        except WebSocketDisconnect:
            pass  # they left

    async def _rows(self, _: Request) -> Response:
        """Return the newest rows as a CSV to download, with the columns of `--csv`."""
        name = {"Content-Disposition": 'attachment; filename="expressions.csv"'}
        rows = [csv_head(self._classes), *self._board.rows()]
        parts = ("".join(rows[at : at + _AT_ONCE]) for at in range(0, len(rows), _AT_ONCE))
        return StreamingResponse(parts, media_type="text/csv; charset=utf-8", headers=name)

    async def _next_points(self, viewer: _Viewer) -> tuple[Round, dict[str, list[Prediction]]]:
        """Return the next round that shows every source with new predictions, and these: a source may have begun since
        the last."""
        while True:
            told = await self._next_round(viewer)
            points, mark = self._board.points(viewer.mark)
            viewer.told = told.number
            if told.over is not None or points.keys() <= {one.name for one in told.snapshots}:
                viewer.mark = mark
                return told, points

    async def _next_round(self, viewer: _Viewer) -> Round:
        while self._round.number <= viewer.told:
            told = self._told
            self._hunger.set()
            await told.wait()
        return self._round


def _file_route(path: str, name: str, kind: str) -> Route:
    content = (_STATIC / name).read_bytes()

    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, serve)
