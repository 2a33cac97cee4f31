"""Ask a running Triton what only its keeper may: the repository's index, to load and unload, statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from tritonclient.utils import InferenceServerException

from model.connection import Connection
from model.errors import (
    CertificateError,
    CheckFailedError,
    DeadlineError,
    InputError,
    TokenError,
    TritonkitError,
    UnreachableError,
)
from model.runners.triton_transport import Transport
from model.spec import Frozen
from model.triton_config import holds_model
from server.runtime import Server

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PYTHON_FRAMES = re.compile(r"\s+At:\n(?:  .*\n?)*")
_SHORT_TIMEOUT_S = 20.0
_CONNECTION_ERRORS = (CertificateError, DeadlineError, TokenError, UnreachableError)
"""Triton did not get as far as the model."""


class VersionState(Frozen):
    """A line of Triton's repository index: a version that was to be loaded, or a model that never was."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def is_unloaded(self) -> bool:
        """Whether somebody asked for its absence, or a newer version took its place."""
        return self.state in ("", "UNLOADING") or (self.state == "UNAVAILABLE" and self.reason in ("", "unloaded"))

    @property
    def has_failed(self) -> bool:
        """Whether it was to be loaded and could not be."""
        return self.state == "UNAVAILABLE" and not self.is_unloaded


class VersionStatistics(Frozen):
    """What Triton has counted for a version since it was loaded (the statistics extension of KServe's protocol)."""

    name: str
    version: str
    requests: int = 0
    failures: int = 0
    images: int = 0
    """A batch of 8 counts 8."""
    executions: int = 0
    """Eight requests answered in one batch count 1."""
    queue_count: int = 0
    queue_ns: int = 0


class Control:
    """A connection that shows the tokens, to be closed: Triton waits for open ones when it is to end.

    Every method raises InferenceError, or TokenError for a wrong token.
    """

    def __init__(self, transport: Transport, repository: Path | None = None) -> None:
        """transport: its deadline is for loading a model; anything else is to take less.

        repository: the server's folder, where it is on this machine; folders in it that hold no model are passed over.
        """
        self.url = transport.connection.url
        self._transport = transport
        self._repository = repository

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def index(self) -> list[VersionState]:
        """Every model of the repository, a line for each version that was ever to be loaded."""
        rows = self._transport.document(
            "list its models", "get_model_repository_index", admin=True, most_s=_SHORT_TIMEOUT_S
        )
        lines = rows.get("models", []) if isinstance(rows, dict) else rows
        states = [VersionState(**{key: str(value) for key, value in row.items()}) for row in lines]
        return [state for state in states if not self._is_not_a_model(state)]

    def _is_not_a_model(self, state: VersionState) -> bool:
        """Triton counts every folder of a repository, such as `.git` and `docs`, for a model that failed."""
        if self._repository is None or state.state == "READY":
            return False
        folder = self._repository / state.name
        return folder.is_dir() and not holds_model(folder)

    def statistics(self) -> list[VersionStatistics]:
        """The counters of every version that is loaded."""
        document = self._transport.document("tell its statistics", "get_inference_statistics", most_s=_SHORT_TIMEOUT_S)
        return [_statistics_from_row(row) for row in document.get("model_stats", [])]

    def load(self, model: str) -> None:
        """Load a model, or load it again where its files have changed; Triton keeps what is loaded until then.

        Raises CheckFailedError with Triton's reason when the model could not be loaded.
        """
        self._request_change("load", model)

    def unload(self, model: str) -> None:
        """Have Triton let go of a model, and of the ensembles that need it. Requests under way are answered."""
        self._request_change("unload", model)

    def is_ready(self) -> bool:
        """Whether the server says that it is ready."""
        return bool(self._transport.call("tell its state", "is_server_ready", most_s=_SHORT_TIMEOUT_S))

    def _request_change(self, action: str, model: str) -> None:
        check_model_name(model)
        try:
            self._transport.call(f"{action} {model}", f"{action}_model", model, admin=True)
        except _CONNECTION_ERRORS:
            raise
        except TritonkitError as error:  # Triton looked at the model: its own words say what is wrong
            reason = error.__cause__.message() if isinstance(error.__cause__, InferenceServerException) else str(error)
            raise CheckFailedError(_PYTHON_FRAMES.sub("", reason or "").strip(" ;\n")) from error


class _LocalTransport(Transport):
    """Requests to a server of this machine, at whatever address of it: nothing that is sent there leaves it."""

    def _headers(self, admin: bool) -> dict[str, str] | None:
        return self._tokens.headers(self.address.protocol, admin)


def control_of(server: Server, timeout_s: float = _SHORT_TIMEOUT_S) -> Control:
    """Control of a server of this machine: by HTTP, which never leaves it, with the tokens of the state file."""
    connection = Connection(url=server.options.http_url, deadline_s=timeout_s)
    return Control(_LocalTransport(connection, server.tokens.client_tokens), server.options.repository)


def remote_control(connection: Connection) -> Control:
    """Control of a server elsewhere, with the tokens of the environment. Raises InputError."""
    return Control(Transport(connection))


def check_model_name(model: str) -> None:
    """Refuse what is no name of one folder. Raises InputError."""
    if not _NAME.fullmatch(model):
        raise InputError(f"{model!r} is no model's name: expected the name of one folder in the model repository")


def _statistics_from_row(row: dict[str, Any]) -> VersionStatistics:
    """gRPC gives numbers as text and leaves zeros out."""
    statistics = row.get("inference_stats", {})
    success, fail, queue = (statistics.get(key, {}) for key in ("success", "fail", "queue"))
    return VersionStatistics(
        name=row["name"],
        version=row["version"],
        requests=int(success.get("count", 0)) + int(fail.get("count", 0)),
        failures=int(fail.get("count", 0)),
        images=int(row.get("inference_count", 0)),
        executions=int(row.get("execution_count", 0)),
        queue_count=int(queue.get("count", 0)),
        queue_ns=int(queue.get("ns", 0)),
    )
