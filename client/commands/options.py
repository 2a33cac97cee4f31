"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from client.connection import INFER_DEFAULTS
from tritonkit.options import Options, UserPath
from tritonkit.system.console import DEFAULT_URL
from tritonkit.system.local_servers import default_url

if TYPE_CHECKING:
    from tritonkit.triton.connection import Connection

Duration = Annotated[float, Field(ge=0, allow_inf_nan=True)]
"""Seconds; `inf` is for ever."""
_FIELDS = {"wait": "wait_s", "deadline": "deadline_s", "patience": "patience_s"}
"""Fields of `Connection` whose options have other names."""


class ConnectionOptions(Options):
    """The connection to a server."""

    url: str = DEFAULT_URL
    """HOST:PORT of Triton's gRPC port, or grpcs://, http:// or https://HOST:PORT; without it, the only local server."""
    tls_ca: UserPath | None = None
    """CA certificate of the server (PEM); turns on TLS."""
    tls_cert: UserPath | None = None
    """Client certificate (PEM)."""
    tls_key: UserPath | None = None
    """Key of the client certificate (PEM)."""
    wait: Duration = 0.0
    """Seconds to wait for a server that is starting."""
    deadline: Annotated[float, Field(ge=0.001)] = 60.0
    """Timeout of one request in seconds."""

    def connection(self, context: typer.Context) -> Connection:
        """The connection; without --url, to the only server of this machine. Raises InputError."""
        from tritonkit.triton.connection import Connection

        values = {_FIELDS.get(name, name): value for name, value in self.model_dump().items()}
        return Connection(**values if typed_options(context, ["url"]) else {**values, "url": default_url()})


class InferConnectionOptions(ConnectionOptions):
    """The connection of a command that sends many requests, so that retries and shared memory are useful."""

    patience: Duration = INFER_DEFAULTS["patience_s"]
    """Seconds to repeat requests while the server is away."""
    shared_memory: bool = True
    """Share memory with a server on this machine."""


def typed_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Return the flags of the options among `names` that were typed on the command line, even with a default value."""
    names = set(names)
    return [
        # Of `--this/--no-this` the flag that was typed.
        option.opts[0] if context.params[option.name] or not option.secondary_opts else option.secondary_opts[0]
        for option in context.command.params
        if option.name in names
        and (source := context.get_parameter_source(option.name)) is not None
        and source.name == "COMMANDLINE"
    ]
