"""From the options of a command to a server that answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from model.connection import Connection
from model.console import warn
from model.errors import TritonkitError

if TYPE_CHECKING:
    from model.runners.triton import TritonServer

OnFailure: TypeAlias = Callable[[TritonkitError], None]

_OF_INFER = {"patience_s": 60.0, "shared_memory": True}
"""Other than those of a Connection, which is for single questions; a test holds them to the command's own."""


def connection_of(
    url: str,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    wait: float = 0.0,
    deadline: float = 60.0,
    patience: float = 0.0,
    shared_memory: bool = False,
) -> Connection:
    """The terms that the options of the same names say; times in seconds."""
    return Connection(
        url=url,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        wait_s=wait,
        deadline_s=deadline,
        patience_s=patience,
        shared_memory=shared_memory,
    )


def with_infer_defaults(where: str | Connection) -> Connection:
    """An address, or a connection, that has what it leaves out from the defaults of `client infer`."""
    given = Connection(url=where) if isinstance(where, str) else where
    left_out = {name: value for name, value in _OF_INFER.items() if name not in given.model_fields_set}
    return given.model_copy(update=left_out)


def server_at(where: str | Connection, on_failure: OnFailure = lambda error: None) -> TritonServer:
    """The server, which tells on stderr when it is waited for, and `on_failure` each time.

    Raises InputError, TokenError.
    """
    from model.runners.triton import TritonServer

    return TritonServer(where, _Told(on_failure))


class _Told:
    """Says once for each kind of failure why a server is waited for, not again for each request that waits."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._told: set[type[TritonkitError]] = set()
        self._on_failure = on_failure

    def __call__(self, error: TritonkitError) -> None:
        self._on_failure(error)
        if type(error) not in self._told:
            self._told.add(type(error))
            warn(f"waiting: {error}")
