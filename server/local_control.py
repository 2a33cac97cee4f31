"""Control of a Triton on this machine: over HTTP on loopback, with the tokens of its state file."""

from __future__ import annotations

from server.runtimes.base import Server
from tritonkit.triton.connection import Connection
from tritonkit.triton.control import _SHORT_TIMEOUT_S, Control
from tritonkit.triton.transport import Transport


class _LocalTransport(Transport):
    """Sends requests to a server of this machine; tokens never leave it, whatever the address."""

    def _headers(self, admin: bool) -> dict[str, str] | None:
        return self._tokens.headers(self.address.protocol, admin)


def local_control(server: Server, timeout_s: float = _SHORT_TIMEOUT_S) -> Control:
    """Open the control APIs of a local server, over HTTP, with the tokens of its state file."""
    connection = Connection(url=server.options.http_url, deadline_s=timeout_s)
    return Control(_LocalTransport(connection, server.tokens.client_tokens), server.options.repository)
