"""Ports of the loopback address for servers of scripts and tests."""

from __future__ import annotations

import socket


def free_ports(count: int = 3) -> list[int]:
    """Different ports that nobody uses now; somebody else may take one before it is bound."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
