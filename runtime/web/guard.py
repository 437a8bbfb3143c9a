"""Access control. Camera images must reach neither the local network nor foreign web pages in the same browser.

Without a token only this machine is served, and only under its own names: a foreign page whose host name resolves to
127.0.0.1 (DNS rebinding) is refused by the Host header. With a token, requests without it are refused; browsers get a
form for it. In either case a WebSocket must come from our own page: browsers let any page open one (cross-site
WebSocket hijacking) but send its Origin.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FORM = (Path(__file__).parent / "static" / "token.html").read_text(encoding="utf-8")
_LONGEST_FORM = 4096  # bytes
_FORM_PATIENCE = 5.0  # seconds


def _policy(style: str, rest: str = "") -> str:
    closed = "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src {style}; img-src data:; {rest}{closed}"


def _digest_of_style(page: str) -> str:
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)
    assert style is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()}'"


_HEADERS = {
    "Content-Security-Policy": _policy("'self'", "script-src 'self'; connect-src 'self'; "),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the URL may contain the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_FORM_HEADERS = {**_HEADERS, "Content-Security-Policy": _policy(_digest_of_style(_FORM))}


class Guard:
    """ASGI middleware: serves `app` to authorised clients, with headers that protect the page.

    The token is sent as `Authorization: Bearer TOKEN`, or once as `?token=TOKEN` or by the form; the latter two set a
    cookie. The cookie holds a digest, so that it survives a restart with the same token without revealing it.
    cookie: its name; cookies are shared by all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str | None, cookie: str) -> None:
        self._app, self._cookie = app, cookie
        self._token = None if token is None else token.encode()
        self._pass = "" if token is None else hmac.new(token.encode(), b"dfer-edge", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        if self._token is not None and (scope.get("method"), scope["path"]) == ("POST", "/"):
            return await (await self._enter(Request(scope, receive)))(scope, receive, send)
        if refusal := self._refusal(request):
            # A WebSocket is refused the same way, before it opens.
            return await refusal(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if self._token is not None and "token" in request.query_params:
                    headers.append("Set-Cookie", self._set_cookie())
            await send(message)

        return await self._app(scope, receive, send_guarded)

    async def _enter(self, request: Request) -> Response:
        """Return the response to the form: the page and a cookie for it, or the form again."""
        body = b""
        try:
            with anyio.fail_after(_FORM_PATIENCE):
                async for part in request.stream():
                    body += part
                    if len(body) > _LONGEST_FORM:
                        return PlainTextResponse("That is no token.\n", 413, {"Connection": "close"})
        except (TimeoutError, ClientDisconnect):
            return PlainTextResponse("The token did not come.\n", 408, {"Connection": "close"})
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not self._is_token(given.strip().encode()):
            return _form("That is not the token. It stands in the address that dfer-run printed, after ?token=.")
        return RedirectResponse("/", 303, {**_HEADERS, "Set-Cookie": self._set_cookie()})

    def _set_cookie(self) -> str:
        return f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Strict"

    def _refusal(self, request: HTTPConnection) -> Response | None:
        host = request.headers.get("host", "")
        if self._token is None and not _is_this_machine(host):
            return PlainTextResponse("This page is served to this machine only, as localhost.\n", 403)
        if self._token is not None and not self._knows_token(request):
            if "text/html" in request.headers.get("accept", ""):
                wrong = "token" in request.query_params
                return _form("The token in the address is not the right one." if wrong else "")
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
        """Return whether the token is right; an explicit one takes precedence over the cookie."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_token(given.strip().encode("latin-1"))
        if "token" in request.query_params:
            return self._is_token(request.query_params["token"].encode())
        return hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self._pass.encode())

    def _is_token(self, given: bytes) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given, self._token)


def _form(problem: str) -> Response:
    """Return the form. problem: one of our own sentences, or empty."""
    return HTMLResponse(_FORM.replace("PROBLEM", problem), 401, {**_FORM_HEADERS, "WWW-Authenticate": "Bearer"})


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header is a loopback name or address, at any port (a tunnel's may differ)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:  # neither localhost nor an IP address
        return False


def _same_place(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
