"""Who may watch. A camera's picture must reach neither the neighbours nor a foreign web page in the same browser.

Without a token only this machine is served, and only under its own names: a foreign page that has its name resolve to
127.0.0.1 (DNS rebinding) is refused by the Host header. With a token, whoever lacks it is refused. A WebSocket must
come from our own page in either case: browsers let any page open one (cross-site hijacking) but tell its Origin.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: serves `app` to those who may watch, with headers that keep others out of the page.

    The token comes as `Authorization: Bearer TOKEN`, or once as `?token=TOKEN`, which is answered with a cookie for
    what follows. The cookie holds a digest, so that it outlives a restart with the same token without being the token.
    cookie: its name; cookies are shared by all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str | None, cookie: str) -> None:
        self._app, self._cookie = app, cookie
        self._token = None if token is None else token.encode()
        self._pass = "" if token is None else hmac.new(token.encode(), b"dfer-edge", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        if refusal := self._refusal(request):
            # A WebSocket is denied the same way, before it opens.
            return await refusal(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if self._token is not None and "token" in request.query_params:
                    headers.append("Set-Cookie", f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        return await self._app(scope, receive, send_guarded)

    def _refusal(self, request: HTTPConnection) -> PlainTextResponse | None:
        host = request.headers.get("host", "")
        if self._token is None and not _is_this_machine(host):
            return PlainTextResponse("This page is served to this machine only, as localhost.\n", 403)
        if self._token is not None and not self._knows_token(request):
            return PlainTextResponse(
                "This page needs its token: open the whole address, with ?token=…, that dfer-run printed.\n",
                401,
                {"WWW-Authenticate": "Bearer"},
            )
        origin = request.headers.get("origin")
        if request.scope["type"] == "websocket" and origin is not None and not _same_place(origin, host):
            return PlainTextResponse("Another site's page may not watch.\n", 403)
        return None

    def _knows_token(self, request: HTTPConnection) -> bool:
        """Whether the token is right; one that is given outweighs the cookie."""
        assert self._token is not None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        if "token" in request.query_params:
            return hmac.compare_digest(request.query_params["token"].encode(), self._token)
        return hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self._pass.encode())


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine from within, at whatever port (a tunnel's may differ)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:  # neither an address nor a name that we have
        return False


def _same_place(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
