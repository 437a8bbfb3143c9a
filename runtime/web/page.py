"""The live page's interface for a run, which only has to show every step."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from urllib.parse import quote

from ..predictions import Step
from ..timing import SHORT_WAIT, StageTimes
from .board import Board, SourceState
from .listening import listen
from .messages import ServedModel

_STAGES_EVERY = 1.0  # seconds


class WebPage:
    """Serves the page from its creation until it is closed. Use as a context manager.

    classes: names of the probabilities, in order. port: 0 picks a free one.
    host: the address to serve at; anything but this machine itself requires a token. token: what viewers must send.
    model: description of the model for the page.

    Raises DferError if the port is in use or invalid, the host is not this machine's or requires a token, or `[web]` is
    missing.
    """

    def __init__(
        self,
        classes: Sequence[str],
        port: int,
        host: str = "127.0.0.1",
        token: str | None = None,
        model: ServedModel | None = None,
    ) -> None:
        listener = listen(host, port, token)
        from .server import PageServer

        self.url = _url(host, listener.getsockname()[1], token)
        """URL for viewers, with the token."""
        self._board = Board()
        self._asked = 0.0  # when stage times were last requested
        self._server = PageServer(listener, self._board, classes, model, token)

    @staticmethod
    def check(port: int, host: str, token: str | None) -> None:
        """Raise DferError if a page could not be served, before any work is done."""
        listen(host, port, token, parameter="web").close()

    def show(self, step: Step, stages: Callable[[], Sequence[StageTimes]], states: Sequence[SourceState]) -> None:
        """Show one step; takes some microseconds, since all work is done elsewhere and only while somebody watches.

        stages: returns the stage times; called in this thread, once a second while somebody watches.
        states: source states (`SourceReaders.readers`), in order; kept, and read again between steps.
        """
        self._board.put(step, states)
        if self._server.watched and (now := monotonic()) - self._asked >= _STAGES_EVERY:
            self._asked = now
            self._board.stages = tuple(stages())

    def wait(self) -> None:
        """Keep serving the last state until Ctrl-C (KeyboardInterrupt)."""
        while True:
            sleep(SHORT_WAIT)

    def close(self, reason: str = "") -> None:
        """Stop the server, within two seconds; viewers are sent the final source states, and the reason, if any."""
        self._server.close(reason)

    def __enter__(self) -> WebPage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close(str(error) if isinstance(error, Exception) else "")


class PageSink:
    """Shows the steps of one run on a page, which stays open after it. For the arguments see `WebPage.show`."""

    def __init__(
        self, page: WebPage, stages: Callable[[], Sequence[StageTimes]], states: Sequence[SourceState]
    ) -> None:
        self._page, self._stages, self._states = page, stages, states

    def write(self, step: Step) -> None:
        self._page.show(step, self._stages, self._states)

    def close(self) -> None:
        """Do nothing: the page's owner closes it."""

    discard = close


def _url(host: str, port: int, token: str | None) -> str:
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={quote(token, safe='')}")
