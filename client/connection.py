"""The client's connection to a server: its defaults, and a log of failed requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tritonkit.errors import TritonkitError
from tritonkit.system.console import warn

if TYPE_CHECKING:
    from tritonkit.triton.client import TritonClient
    from tritonkit.triton.connection import Connection

OnFailure: TypeAlias = Callable[[TritonkitError], None]

INFER_DEFAULTS = {"patience_s": 60.0, "shared_memory": True}
"""Defaults of `client infer` that differ from those of Connection."""


def with_infer_defaults(url: str | Connection) -> Connection:
    """Return a Connection in which missing fields have the defaults of `client infer`."""
    from tritonkit.triton.connection import Connection

    connection = Connection(url=url) if isinstance(url, str) else url
    missing = {name: value for name, value in INFER_DEFAULTS.items() if name not in connection.model_fields_set}
    return connection.model_copy(update=missing)


def server_at(url: str | Connection, on_failure: OnFailure = lambda error: None) -> TritonClient:
    """Open the server. It prints on stderr why it waits, and calls `on_failure` for each failed request.

    Raises InputError, TokenError.
    """
    from tritonkit.triton.client import TritonClient

    return TritonClient(url, _FailureLog(on_failure))


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
