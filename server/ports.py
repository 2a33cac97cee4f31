"""Ports: are they free, and if not, who holds them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

import psutil

from model.errors import ServerError


def check_ports_free(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Raise ServerError naming every port that cannot be bound and, where the system tells, its holder.

    bound: address and port by what they are for, such as {"gRPC": ("127.0.0.1", 8001)}.
    """
    problems = [problem for title, (host, port) in addresses.items() if (problem := _port_problem(host, title, port))]
    if len({port for _, port in addresses.values()}) < len(addresses):
        problems.append("two of the ports are the same")
    if problems:
        raise ServerError(
            "\n  ".join(["ports cannot be had:", *problems])
            + "\nChoose others with --http-port, --grpc-port, --metrics-port; `server status` shows your own servers, "
            "`server down` stops one."
        )


def _port_problem(host: str, title: str, port: int) -> str | None:
    with socket.socket() as probe:
        # As Triton does: a port whose last connections still linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"{title} port {port} is in use by {_port_owner(port)}"
            return f"{title} port {port} on {host}: {error.strerror}"
    return None


def _port_owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid}: {' '.join(process.cmdline())[:80]})"
    except psutil.Error:
        pass  # another user's processes are hidden
    return "a process this user cannot see"
