"""Ask a running Triton what only its keeper may: the repository's index, to load and unload, statistics."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from tritonclient.utils import InferenceServerException

from model.connection import Connection, Tokens, tokens_from_environment
from model.errors import InputError, RefusedError
from model.runners.triton_errors import error_of_answer, error_of_connection
from model.spec import Frozen
from model.tls import check_files
from server.runtime import Server

# Before gRPC is imported: what it logs of a failed handshake is told by our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PYTHON_FRAMES = re.compile(r"\s+At:\n(?:  .*\n?)*")
_SHORT_S = 20.0


class VersionState(Frozen):
    """A line of Triton's repository index: a version that was to be loaded, or a model that never was."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def unloaded(self) -> bool:
        """Whether somebody asked for its absence, or a newer version took its place."""
        return self.state in ("", "UNLOADING") or (self.state == "UNAVAILABLE" and self.reason in ("", "unloaded"))

    @property
    def failed(self) -> bool:
        """Whether it was to be loaded and could not be."""
        return self.state == "UNAVAILABLE" and not self.unloaded


class Counters(Frozen):
    """What Triton has counted for a version since it was loaded (the statistics extension of KServe's protocol)."""

    name: str
    version: str
    requests: int = 0
    failures: int = 0
    images: int = 0
    """A batch of 8 counts 8."""
    executions: int = 0
    """Eight requests answered in one batch count 1."""
    queued: int = 0
    queue_ns: int = 0


class Control:
    """A connection that shows the tokens, to be closed: Triton waits for open ones when it is to end.

    Every method raises InferenceError, or InputError for a wrong token.
    """

    def __init__(self, connection: Connection, tokens: Tokens) -> None:
        """connection: its deadline is for loading a model; anything else is to take less. Raises InputError."""
        self.url = connection.url
        self._connection = connection
        self._tokens = tokens
        self._protocol = connection.address.protocol
        check_files(connection)
        self._client = _http_client(connection) if self._protocol == "http" else _grpc_client(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def index(self) -> list[VersionState]:
        """Every model of the repository, a line for each version that was ever to be loaded."""
        rows = self._ask("list its models", "get_model_repository_index", admin=True)
        lines = rows.get("models", []) if isinstance(rows, dict) else rows
        return [VersionState(**{key: str(value) for key, value in row.items()}) for row in lines]

    def counters(self) -> list[Counters]:
        """The counters of every version that is loaded."""
        document = self._ask("tell its statistics", "get_inference_statistics", admin=False)
        return [_counters(row) for row in document.get("model_stats", [])]

    def load(self, model: str) -> None:
        """Load a model, or load it again where its files have changed; Triton keeps what is loaded until then.

        Raises RefusedError with Triton's reason when the model could not be loaded.
        """
        self._change("load", model)

    def unload(self, model: str) -> None:
        """Have Triton let go of a model, and of the ensembles that need it. Requests under way are answered."""
        self._change("unload", model)

    def is_ready(self) -> bool:
        """Whether the server says that it is ready."""
        return bool(self._ask("tell its state", "is_server_ready", admin=False, document=False))

    def _change(self, verb: str, model: str) -> None:
        check_name(model)
        with self._translated(f"{verb} {model}"):
            try:
                getattr(self._client, f"{verb}_model")(model, **self._shown(admin=True), **self._limit(slow=True))
            except InferenceServerException as error:
                if _is_an_answer(error):
                    raise RefusedError(_PYTHON_FRAMES.sub("", error.message() or "").strip(" ;\n")) from error
                raise

    def _ask(self, doing: str, method: str, admin: bool, document: bool = True) -> Any:
        form = {"as_json": True} if document and self._protocol == "grpc" else {}
        with self._translated(doing):
            return getattr(self._client, method)(**self._shown(admin), **form, **self._limit(slow=False))

    def _shown(self, admin: bool) -> dict[str, Any]:
        """The token that goes with a request."""
        headers = self._tokens.headers(self._protocol, admin)
        return {"headers": headers} if headers else {}

    def _limit(self, slow: bool) -> dict[str, float]:
        deadline_s = self._connection.deadline_s
        return {} if self._protocol == "http" else {"client_timeout": deadline_s if slow else min(deadline_s, _SHORT_S)}

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise error_of_answer(self._connection, doing, str(error.status()), error.message() or "") from error
        except OSError as error:
            raise error_of_connection(self._connection, doing, error) from error


def control_of(server: Server, timeout_s: float = _SHORT_S) -> Control:
    """Control of a server of this machine: by HTTP, which never leaves it, with the tokens of the state file."""
    return Control(Connection(url=server.options.http_url, deadline_s=timeout_s), server.tokens.shown)


def control_at(connection: Connection) -> Control:
    """Control of a server elsewhere, with the tokens of the environment. Raises InputError."""
    return Control(connection, tokens_from_environment())


def check_name(model: str) -> None:
    """Refuse what is no name of one folder. Raises InputError."""
    if not _NAME.fullmatch(model):
        raise InputError(f"{model!r} is no model's name: expected the name of one folder in the model repository")


def _is_an_answer(error: InferenceServerException) -> bool:
    """Whether Triton looked at the model, rather than at the token, or not at all."""
    unheard = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "403", "CANCELLED", "UNIMPLEMENTED")
    return error.status() is not None and not any(word in str(error.status()) for word in unheard)


def _http_client(connection: Connection) -> Any:
    import tritonclient.http

    address = connection.address
    tls: dict[str, Any] = {}
    if address.tls:
        files = {"ca_certs": connection.tls_ca, "certfile": connection.tls_cert, "keyfile": connection.tls_key}
        tls = {"ssl": True, "ssl_options": {name: str(path) for name, path in files.items() if path is not None}}
    limits = {"network_timeout": connection.deadline_s, "connection_timeout": _SHORT_S}
    return tritonclient.http.InferenceServerClient(address.netloc, **limits, **tls)


def _grpc_client(connection: Connection) -> Any:
    import tritonclient.grpc

    address = connection.address
    if not address.tls:
        return tritonclient.grpc.InferenceServerClient(address.netloc)
    given = {
        "root_certificates": connection.tls_ca,
        "private_key": connection.tls_key,
        "certificate_chain": connection.tls_cert,
    }
    files = {name: str(path) for name, path in given.items() if path is not None}
    return tritonclient.grpc.InferenceServerClient(address.netloc, ssl=True, **files)


def _counters(row: dict[str, Any]) -> Counters:
    """gRPC gives numbers as text and leaves zeros out."""
    spent = row.get("inference_stats", {})
    success, fail, queue = (spent.get(kind, {}) for kind in ("success", "fail", "queue"))
    return Counters(
        name=row["name"],
        version=row["version"],
        requests=int(success.get("count", 0)) + int(fail.get("count", 0)),
        failures=int(fail.get("count", 0)),
        images=int(row.get("inference_count", 0)),
        executions=int(row.get("execution_count", 0)),
        queued=int(queue.get("count", 0)),
        queue_ns=int(queue.get("ns", 0)),
    )
