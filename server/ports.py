"""Checks whether ports are free, and finds the process that uses one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

import psutil

from tritonkit.errors import Problem, ServerError


def check_ports_free(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Raise ServerError with every port that cannot be bound and, if known, the process that uses it.

    addresses: address and port of each service, such as {"gRPC": ("127.0.0.1", 8001)}.
    """
    problems = []
    for title, (host, port) in addresses.items():
        with socket.socket() as probe:
            # As Triton does: a port with connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    message = f"{title} port {port} is in use by {_port_owner(port)}"
                    problems.append(Problem("server.port_in_use", message))
                else:
                    message = f"{title} port {port} on {host}: {error.strerror}"
                    problems.append(Problem("server.port_unusable", message))
    if len({port for _, port in addresses.values()}) < len(addresses):
        problems.append(Problem("server.duplicate_ports", "two of the ports are the same"))
    if problems:
        raise ServerError(
            "\n  ".join(["these ports cannot be used:", *map(str, problems)])
            + "\nChoose other ports with --http-port, --grpc-port, --metrics-port; `server status` shows your servers, "
            "`server down` stops one.",
            code="server.ports",
            problems=problems,
        )


def _port_owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid}: {' '.join(process.cmdline())[:80]})"
    except psutil.Error:
        pass  # processes of other users are hidden
    return "a process of another user"
