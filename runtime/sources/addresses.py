"""Addresses of streams: their credentials, and why one does not open."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from urllib.parse import quote, unquote, urlsplit

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
_ENCRYPTED = ("rtsps", "https")
_PATIENCE = 3.0  # seconds


def without_credentials(url: str) -> str:
    """The URL without user name, password, query and fragment, any of which may be a secret.

    Cut by hand: passwords are often not percent-encoded, and a "/" or "#" in one misleads URL parsers.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://" + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def with_encoded_credentials(url: str) -> str:
    """The URL with user name and password percent-encoded where they were written as they are.

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
    """Half a sentence about why a stream does not open, from asking its server once more, for some seconds at most."""
    unknown = "check the address and that the stream is up"
    try:
        parts = urlsplit(with_encoded_credentials(url))
        port = parts.port or _PORTS[parts.scheme.lower()]
    except (KeyError, ValueError):
        return unknown
    host = parts.hostname or ""
    try:
        connection = socket.create_connection((host, port), _PATIENCE)
    except socket.gaierror:
        return f"no host of the name {host} is known"
    except ConnectionRefusedError:
        return f"nothing listens at port {port} of {host}"
    except (OSError, UnicodeError):
        return f"{host} does not answer at port {port}"
    with connection:
        status = _ask(connection, parts.scheme.lower(), url)
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


def _ask(connection: socket.socket, scheme: str, url: str) -> int | None:
    """The status with which an RTSP or HTTP server answers; None for no such answer."""
    parts = urlsplit(with_encoded_credentials(url))
    place = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    if scheme.startswith("rtsp"):
        lines = [f"DESCRIBE {scheme}://{host}{place} RTSP/1.0", "CSeq: 1"]
    else:
        lines = [f"GET {place} HTTP/1.0", f"Host: {host}"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    try:
        connection.settimeout(_PATIENCE)
        if scheme in _ENCRYPTED:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = connection.recv(4096)
    except OSError:
        return None
    found = re.match(rb"(?:RTSP|HTTP)/1\.\d (\d{3})", answer)
    ways = re.findall(rb"(?im)^WWW-Authenticate: *(\w+)", answer)
    if parts.username is not None and ways and b"basic" not in map(bytes.lower, ways):
        return None  # it refuses the way of asking, whatever the password
    return int(found[1]) if found else None
