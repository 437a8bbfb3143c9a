"""Stream URLs: handling their credentials, and finding out why one does not open."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from urllib.parse import SplitResult, quote, unquote, urlsplit

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
_ENCRYPTED = ("rtsps", "https")
_PATIENCE = 3.0  # seconds
_LARGEST = 1 << 16  # bytes of a response's header


def without_credentials(url: str) -> str:
    """Return the URL without user name, password, query and fragment, any of which may be a secret.

    Split by hand: passwords are often not percent-encoded, and a "/" or "#" in one misleads URL parsers.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://" + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def with_encoded_credentials(url: str) -> str:
    """Return the URL with user name and password percent-encoded where necessary.

    >>> with_encoded_credentials("rtsp://me:a/b#c?d@host:554/live")
    'rtsp://me:a%2Fb%23c%3Fd@host:554/live'
    >>> with_encoded_credentials("rtsp://me:a%2Fb@host/live?to=x@y")
    'rtsp://me:a%2Fb@host/live?to=x@y'
    """
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest)[0]
    if "@" not in authority:
        name, _, port = authority.partition(":")
        if "@" not in rest or not port or port.isdecimal() or name.startswith("["):
            return url  # no credentials; an "@" further on belongs to the path
        authority = rest[: rest.rindex("@") + 1]
    credentials = authority.rpartition("@")[0]
    bare = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", credentials)
    return f"{scheme}://{quote(bare, safe='%:!$&()*+,;=~-._')}{rest[len(credentials) :]}"


def why_closed(url: str) -> str:
    """Return half a sentence on why a stream does not open, after querying its server again, for seconds at most."""
    unknown = "check the address and that the stream is up"
    try:
        parts = urlsplit(with_encoded_credentials(url))
        port = parts.port or _PORTS[parts.scheme.lower()]
    except (KeyError, ValueError):
        return unknown
    host = parts.hostname or ""
    try:
        status, ways = _ask(parts, port)
        if status == 401 and parts.username is not None:
            if "basic" not in ways or ("digest" in ways and parts.scheme.lower() not in _ENCRYPTED):
                return unknown  # Digest keeps the password secret, which matters more than a precise message
            status, _ = _ask(parts, port, login=True)
    except socket.gaierror:
        return f"no host of the name {host} is known"
    except ConnectionRefusedError:
        return f"nothing listens at port {port} of {host}"
    except (OSError, UnicodeError):
        return f"{host} does not answer at port {port}"
    if status is None:
        return unknown
    if status == 401:
        if parts.username is None:
            return "it wants a user name and a password (401): put USER:PASSWORD@ before the host"
        return "it refuses the user name or the password (401)"
    if status == 403:
        return "it forbids this user to watch (403)"
    if status == 404:
        return "it answers that there is no such stream (404); check the path"
    return "it answers, but not with video that can be read; check the path and that the stream is up"


def _ask(parts: SplitResult, port: int, login: bool = False) -> tuple[int | None, str]:
    """Return the status of an RTSP or HTTP server's response, if any, and the login schemes it offers, in lower case.

    login: whether to send the password, which only encryption protects. Raises OSError if the connection fails.
    """
    scheme, host = parts.scheme.lower(), parts.netloc.rpartition("@")[2]
    place = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if scheme.startswith("rtsp"):
        lines = [f"DESCRIBE {scheme}://{host}{place} RTSP/1.0", "CSeq: 1"]
    else:
        lines = [f"GET {place} HTTP/1.0", f"Host: {host}"]
    if login:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    with socket.create_connection((parts.hostname or "", port), _PATIENCE) as connection:
        try:
            if scheme in _ENCRYPTED:
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
            with connection:
                connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
                answer, end = b"", time.monotonic() + _PATIENCE
                while b"\r\n\r\n" not in answer and len(answer) < _LARGEST and time.monotonic() < end:
                    if not (part := connection.recv(4096)):
                        break
                    answer += part
        except OSError:
            return None, ""
    found = re.match(rb"(?:RTSP|HTTP)/1\.\d (\d{3})", answer)
    ways = b" ".join(re.findall(rb"(?im)^WWW-Authenticate:(.*)", answer)).decode("latin-1").lower()
    return (int(found[1]) if found else None), ways
