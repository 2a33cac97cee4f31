"""The servers that `server up` started on this machine, as their state files name them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.console import DEFAULT_URL, warn
from model.errors import InputError
from model.spec import Frozen

STATE_VARIABLE = "TRITONKIT_STATE"
STATE_FILE = "server.json"
_CONNECT_S = 1.0


class LocalServer(Frozen, extra="ignore"):
    """A server's address and repository, as a client needs them."""

    repository: Path
    host: str
    grpc_port: int
    security: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """Its gRPC address, as `--url` takes it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104 - every address is loopback too
        return f"{'grpcs://' if self.security.get('tls_certificate') else ''}{host}:{self.grpc_port}"

    def accepts(self) -> bool:
        """Whether something listens at its gRPC port."""
        return accepts(self.url.rpartition("//")[2])


class _State(Frozen, extra="ignore"):
    options: LocalServer


def state_folder() -> Path:
    """Where running servers are remembered: `$TRITONKIT_STATE`, or the user's state folder."""
    chosen = os.environ.get(STATE_VARIABLE)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(chosen) if chosen else Path(base) / "tritonkit" / "servers"


def recorded_servers() -> list[LocalServer]:
    """The servers that have a state file; they may have ended since."""
    found = []
    for path in sorted(state_folder().glob(f"*/{STATE_FILE}")):
        try:
            found.append(_State.model_validate_json(path.read_bytes()).options)
        except (OSError, ValidationError):  # another user's, or it is being removed
            continue
    return found


def url_without_option(usual: str = DEFAULT_URL) -> str:
    """The address to ask where no `--url` is given: Triton's own, or that of the only server that runs here.

    Says so on stderr where it is not Triton's own. Raises InputError where several run.
    """
    recorded = recorded_servers()
    if accepts(usual) or any(server.url.endswith(usual) for server in recorded):
        return usual
    running = [server for server in recorded if server.accepts()]
    if len(running) > 1:
        listed = ", ".join(f"{server.url} ({server.repository})" for server in running)
        raise InputError(f"nothing answers at {usual}, and several servers run here; choose by --url: {listed}")
    if not running:
        return usual
    (server,) = running
    warn(f"nothing answers at {usual}: asking {server.url}, which serves {server.repository}")
    return server.url


def accepts(netloc: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = netloc.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
