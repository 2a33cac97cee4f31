"""The servers that `server up` started on this machine, from their state files."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tritonkit.errors import InputError
from tritonkit.spec import Frozen
from tritonkit.system.console import DEFAULT_URL, warn

STATE_VARIABLE = "TRITONKIT_STATE"
STATE_FILE = "server.json"
_CONNECT_S = 1.0


class LocalServer(Frozen, extra="ignore"):
    """The address and repository of a local server."""

    repository: Path
    host: str
    grpc_port: int
    http_port: int = 0
    security: dict[str, Any] = {}
    tokens: dict[str, str | None] = Field(default={}, repr=False)
    """The tokens of the server, as `RequestTokens`."""

    @property
    def url(self) -> str:
        """Return the gRPC address in the form of `--url`."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104 - includes the loopback address
        return f"{'grpcs://' if self.security.get('tls_certificate') else ''}{host}:{self.grpc_port}"

    def is_listening(self) -> bool:
        """Whether a process listens at the gRPC port."""
        return is_listening(self.url.rpartition("//")[2])


class _State(Frozen, extra="ignore"):
    options: LocalServer
    tokens: dict[str, str | None] = {}


def state_folder() -> Path:
    """Return the folder of the state files: `$TRITONKIT_STATE`, or the user's state folder."""
    chosen = os.environ.get(STATE_VARIABLE)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(chosen) if chosen else Path(base) / "tritonkit" / "servers"


def recorded_servers() -> list[LocalServer]:
    """Return the servers with a state file; they may have stopped since."""
    servers = []
    for path in sorted(state_folder().glob(f"*/{STATE_FILE}")):
        try:
            state = _State.model_validate_json(path.read_bytes())
            servers.append(state.options.model_copy(update={"tokens": state.tokens}))
        except (OSError, ValidationError):  # another user's file, or one that is being removed
            continue
    return servers


def recorded_server_at(port: int) -> LocalServer | None:
    """Return the server that was started with this gRPC or HTTP port on this machine; None if there is none."""
    return next((server for server in recorded_servers() if port in (server.grpc_port, server.http_port)), None)


def default_url(usual: str = DEFAULT_URL) -> str:
    """Return the address to use without `--url`: Triton's default, or that of the only server on this machine.

    It prints a line on stderr if it is not Triton's default. Raises InputError if several servers run.
    """
    recorded = recorded_servers()
    if is_listening(usual) or any(server.url.endswith(usual) for server in recorded):
        return usual
    running = [server for server in recorded if server.is_listening()]
    if len(running) > 1:
        listed = ", ".join(f"{server.url} ({server.repository})" for server in running)
        raise InputError(
            f"no server answers at {usual}, and several servers run here; select one with --url: {listed}",
            code="server.ambiguous",
        )
    if not running:
        return usual
    (server,) = running
    warn(f"no server answers at {usual}: using {server.url}, which serves {server.repository}")
    return server.url


def is_listening(netloc: str) -> bool:
    """Whether a process listens at HOST:PORT."""
    host, _, port = netloc.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
