"""Opens a server's listening socket: the port must be free, and access from the network requires a token."""

from __future__ import annotations

import errno
import socket
import sys
from ipaddress import ip_address

from ..errors import DferError, ParameterError, require


def listen(host: str, port: int, token: str | None = None, parameter: str = "port") -> socket.socket:
    """Return a listening socket, bound now, so that a port in use is reported before any work is done.

    port: 0 picks a free one; `parameter` is its name in errors. token: what clients must send.
    Raises DferError if the port is in use or invalid, the host is not this machine's, or is open to the network without
    a token, or `[web]` is missing.
    """
    for module in ("starlette", "uvicorn", "websockets"):
        require(module, "web")
    if token == "":
        raise ParameterError("token", "is empty; give one that cannot be guessed")
    if token is not None and token != token.strip():
        raise ParameterError("token", "begins or ends with a space, which browsers leave out; give one without")
    if not 0 <= port <= 65535:
        raise ParameterError(parameter, f"{port} is none; ports go up to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ParameterError("host", f"{host}, port {port}: no such address ({error})") from error
    family, kind, protocol, _, address = min(found)  # IPv4 first
    if token is None and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ParameterError(
            "token",
            f"is needed, for host {host} shows the pictures to the network; one that cannot be guessed "
            '(python -c "import secrets; print(secrets.token_urlsafe())" makes one)',
        )
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # its SO_REUSEADDR would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page closed just now does not block it
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise DferError(f"port {port} of {host} is taken; end what listens there or name another port") from error
        if error.errno == errno.EACCES:
            raise DferError(f"port {port} may not be used by this account; name one from 1024 up") from error
        raise DferError(f"the page cannot be served at {host}, port {port}: {error.strerror}") from error
    return listener
