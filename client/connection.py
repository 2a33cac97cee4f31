"""Turn the connection options of a command into a Triton server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tritonkit.errors import TritonkitError
from tritonkit.system.console import warn
from tritonkit.triton.connection import Connection

if TYPE_CHECKING:
    from tritonkit.triton.runner import TritonServer

OnFailure: TypeAlias = Callable[[TritonkitError], None]

_INFER_DEFAULTS = {"patience_s": 60.0, "shared_memory": True}
"""Defaults of `client infer` that differ from those of Connection. A test compares them with the command's options."""


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
    """Return a Connection with these options; times in seconds."""
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


def with_infer_defaults(url: str | Connection) -> Connection:
    """Return a Connection in which missing fields have the defaults of `client infer`."""
    connection = Connection(url=url) if isinstance(url, str) else url
    missing = {name: value for name, value in _INFER_DEFAULTS.items() if name not in connection.model_fields_set}
    return connection.model_copy(update=missing)


def server_at(url: str | Connection, on_failure: OnFailure = lambda error: None) -> TritonServer:
    """Open the server. It prints on stderr why it waits, and calls `on_failure` for each failed request.

    Raises InputError, TokenError.
    """
    from tritonkit.triton.runner import TritonServer

    return TritonServer(url, _FailureLog(on_failure))


class _FailureLog:
    """Prints each kind of failure once, and not once for each request that waits."""

    def __init__(self, on_failure: OnFailure) -> None:
        self._logged: set[type[TritonkitError]] = set()
        self._on_failure = on_failure

    def __call__(self, error: TritonkitError) -> None:
        self._on_failure(error)
        if type(error) not in self._logged:
            self._logged.add(type(error))
            warn(f"retrying: {error}")
