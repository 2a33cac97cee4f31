"""Client of Triton's model repository and statistics APIs, with the admin token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from tritonclient.utils import InferenceServerException

from tritonkit.errors import (
    CertificateError,
    CheckFailedError,
    DeadlineError,
    InputError,
    TokenError,
    TritonkitError,
    UnreachableError,
)
from tritonkit.spec import Frozen
from tritonkit.triton.connection import Connection
from tritonkit.triton.model_config import holds_model
from tritonkit.triton.transport import Transport

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PYTHON_FRAMES = re.compile(r"\s+At:\n(?:  .*\n?)*")
_SHORT_TIMEOUT_S = 20.0
_CONNECTION_ERRORS = (CertificateError, DeadlineError, TokenError, UnreachableError)
"""Errors that are raised before Triton handles the model."""


class VersionState(Frozen):
    """A row of Triton's repository index: a version, or a model that was never loaded (with an empty version)."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def is_unloaded(self) -> bool:
        """Whether the version was unloaded or replaced, and not failed."""
        return self.state in ("", "UNLOADING") or (self.state == "UNAVAILABLE" and self.reason in ("", "unloaded"))

    @property
    def has_failed(self) -> bool:
        """Whether the version failed to load."""
        return self.state == "UNAVAILABLE" and not self.is_unloaded


class VersionStatistics(Frozen):
    """Triton's statistics of a version since it was loaded (statistics extension of KServe's protocol)."""

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
    """A connection with tokens for Triton's control APIs. Close it: Triton waits for open connections when it stops.

    Every method raises InferenceError, or TokenError for a wrong token.
    """

    def __init__(self, transport: Transport, repository: Path | None = None) -> None:
        """transport: its deadline applies to loading a model; other requests have a shorter one.

        repository: the served folder, if it is on this machine; its folders without a model are skipped.
        """
        self.url = transport.connection.url
        self._transport = transport
        self._repository = repository

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def index(self) -> list[VersionState]:
        """Return a row for each version that Triton ever tried to load, and for each model never loaded."""
        rows = self._transport.document(
            "list its models", "get_model_repository_index", admin=True, timeout_s=_SHORT_TIMEOUT_S
        )
        lines = rows.get("models", []) if isinstance(rows, dict) else rows
        states = [VersionState(**{key: str(value) for key, value in row.items()}) for row in lines]
        return [state for state in states if not self._is_not_a_model(state)]

    def _is_not_a_model(self, state: VersionState) -> bool:
        """Whether a row is a folder without a model, such as `.git`: Triton lists it as a failed model."""
        if self._repository is None or state.state == "READY":
            return False
        folder = self._repository / state.name
        return folder.is_dir() and not holds_model(folder)

    def statistics(self) -> list[VersionStatistics]:
        """Return the statistics of every loaded version."""
        document = self._transport.document(
            "send its statistics", "get_inference_statistics", timeout_s=_SHORT_TIMEOUT_S
        )
        return [_statistics_from_row(row) for row in document.get("model_stats", [])]

    def load(self, model: str) -> None:
        """Load or reload a model; the old version serves until the new one is ready.

        Raises CheckFailedError with Triton's reason when the model fails to load.
        """
        self._request_change("load", model)

    def unload(self, model: str) -> None:
        """Unload a model and the ensembles that need it. Requests in flight are completed."""
        self._request_change("unload", model)

    def is_ready(self) -> bool:
        """Whether the server reports that it is ready."""
        return bool(self._transport.call("send its state", "is_server_ready", timeout_s=_SHORT_TIMEOUT_S))

    def _request_change(self, action: str, model: str) -> None:
        check_model_name(model)
        try:
            self._transport.call(f"{action} {model}", f"{action}_model", model, admin=True)
        except _CONNECTION_ERRORS:
            raise
        except TritonkitError as error:  # Triton tried the model: use its own message
            reason = error.__cause__.message() if isinstance(error.__cause__, InferenceServerException) else str(error)
            raise CheckFailedError(
                _PYTHON_FRAMES.sub("", reason or "").strip(" ;\n"), code="server.refused_model"
            ) from error


def remote_control(connection: Connection) -> Control:
    """Open the control APIs of a remote server, with the tokens of the environment. Raises InputError."""
    return Control(Transport(connection))


def check_model_name(model: str) -> None:
    """Check that a model name is the name of one folder. Raises InputError."""
    if not _NAME.fullmatch(model):
        raise InputError(
            f"{model!r} is not a model name: expected the name of one folder in the model repository",
            code="repository.model_name",
        )


def _statistics_from_row(row: dict[str, Any]) -> VersionStatistics:
    """Parse a row: gRPC sends numbers as text and omits zeros."""
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
