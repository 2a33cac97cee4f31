"""Free ports of the loopback address for servers of scripts and tests."""

from __future__ import annotations

import socket


def free_ports(count: int = 3) -> list[int]:
    """Return different unused ports; another process may take one before it is bound."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
