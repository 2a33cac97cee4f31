"""One way to ask Triton's gRPC or HTTP client: with tokens, deadline and TLS, failing with our errors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from model.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE, Connection, Tokens, tokens_from_environment
from model.errors import CertificateError, InferenceError, TokenError, TritonkitError, UnreachableError
from model.process import GRPC, OwnProcess
from model.runners.http_threads import HttpClientPool
from model.runners.shared_memory import RegionRegistry
from model.runners.triton_errors import error_from_status, error_from_exception
from model.tls import check_files

# What gRPC logs of a failed handshake is told by our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_CONNECT_TIMEOUT_S = 10.0
_REGISTRY_TIMEOUT_S = 2.0
"""For a request about shared memory over gRPC: pictures can go without it."""
_FIRST_SAFE_RELEASE = (2, 50)
"""The release, 24.09, from which Triton keeps a region that a request uses (server, pull request 7567)."""
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is noticed within seconds; by default it may take two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Transport:
    """Requests to one server. Safe to use from several threads."""

    def __init__(self, connection: Connection, tokens: Tokens | None = None) -> None:
        """Connect with the first request. Raises InputError for files that cannot be used, TokenError.

        tokens: those of the environment unless given.
        """
        self.connection = connection
        self.address = connection.address
        self._tokens = tokens_from_environment() if tokens is None else tokens
        self._has_environment_tokens = tokens is None
        if self.address.tls:
            check_files(connection)
        self._has_succeeded = False
        self.process = OwnProcess(f"the connection to {connection.url}")
        http = self.address.protocol == "http"
        self._http_pool = HttpClientPool(lambda: _http_client(connection)) if http else None
        self._channel = None if http else _grpc_client(connection)

    @property
    def module(self) -> Any:
        """`tritonclient.grpc` or `tritonclient.http`."""
        if self.address.protocol == "http":
            import tritonclient.http as module
        else:
            import tritonclient.grpc as module
        return module

    def call(
        self, action: str, method: str, *arguments: Any, admin: bool = False, most_s: float = math.inf, **options: Any
    ) -> Any:
        """Call a method of tritonclient's client.

        doing: for messages, as in "could not ...". admin: show the token for the model repository.
        most_s: over gRPC, to wait less than the deadline.
        Raises UnknownModelError, TokenError, BatchError, InputError, and InferenceError in its kinds.
        """
        self.process.check()
        terms = self.connection
        if self._http_pool is None:
            if most_s < terms.deadline_s:
                terms = terms.model_copy(update={"deadline_s": most_s})
            options["client_timeout"] = terms.deadline_s
        headers = self._headers(admin)
        with self._translate_errors(terms, action, admin):
            answer = self._execute(lambda client: getattr(client, method)(*arguments, headers=headers, **options))
        self._has_succeeded = True
        return answer

    def document(self, action: str, method: str, *arguments: Any, admin: bool = False, most_s: float = math.inf) -> Any:
        """As `call`, for methods that answer with a document: its JSON."""
        form = {"as_json": True} if self._http_pool is None else {}
        return self.call(action, method, *arguments, admin=admin, most_s=most_s, **form)

    def _execute(self, request: Callable[[Any], Any]) -> Any:
        return request(self._channel) if self._http_pool is None else self._http_pool.call(request)

    def _headers(self, admin: bool) -> dict[str, str] | None:
        """With the token, which is shown to nobody on the way. Raises TokenError."""
        headers = self._tokens.headers(self.address.protocol, admin)
        if headers and not self.address.tls and not self.address.is_loopback:
            raise TokenError(
                f"{self.connection.url}: a token would be sent there without TLS, for all on the way to read. Use "
                f"grpcs:// or https://, or unset ${TOKEN_VARIABLE} and ${ADMIN_TOKEN_VARIABLE}"
            )
        return headers

    def close(self) -> None:
        """End the connection; requests under way over gRPC fail. In a forked process it is left as it is."""
        if not self.process.is_current():
            return
        if self._channel is not None:
            self._channel.close()
        if self._http_pool is not None:
            self._http_pool.close()

    @contextmanager
    def _translate_errors(self, connection: Connection, action: str, admin: bool) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as error:
            said = error.message() or ""
            translated = error_from_status(connection, action, str(error.status()), said, self._token_source(admin))
            raise self._refine(translated) from error
        except Exception as error:  # the HTTP client lets through whatever a port that is not Triton's leads to
            raise self._refine(error_from_exception(connection, action, error)) from error

    def _token_source(self, admin: bool) -> str:
        """In words; empty where none is shown."""
        variable = self._tokens.variable(admin)
        if not variable:
            return ""
        return f"${variable}" if self._has_environment_tokens else "this server's state file"

    def _refine(self, error: TritonkitError) -> TritonkitError:
        """Certificates that were good are good: a server that ends in the middle of a handshake looks alike."""
        return UnreachableError(str(error)) if self._has_succeeded and isinstance(error, CertificateError) else error


class TritonRegionRegistry(RegionRegistry):
    """The regions of shared memory that a server has mapped."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, region: str, size: int) -> None:
        """As Registry says."""
        self._call("map shared memory", "register_system_shared_memory", region, f"/{region}", size)

    def unregister(self, region: str) -> None:
        """As Registry says."""
        self._call("let go of shared memory", "unregister_system_shared_memory", region)

    def registered(self) -> list[str]:
        """As Registry says."""
        release = str(self._document("tell its version", "get_server_metadata")["version"])
        if tuple(map(int, release.split(".")[:2])) < _FIRST_SAFE_RELEASE:
            raise InferenceError(f"Triton {release} ends when it is to let go of memory that it still reads")
        found = self._document("list shared memory", "get_system_shared_memory_status")
        return list(found.get("regions", {})) if isinstance(found, dict) else [str(row["name"]) for row in found]

    def _call(self, action: str, method: str, *arguments: Any) -> None:
        self._transport.call(action, method, *arguments, most_s=_REGISTRY_TIMEOUT_S)

    def _document(self, action: str, method: str) -> Any:
        return self._transport.document(action, method, most_s=_REGISTRY_TIMEOUT_S)


def _grpc_client(connection: Connection) -> Any:
    import tritonclient.grpc

    address = connection.address
    files: dict[str, Any] = {}
    if address.tls:
        given = {
            "root_certificates": connection.tls_ca,
            "certificate_chain": connection.tls_cert,
            "private_key": connection.tls_key,
        }
        files = {"ssl": True, **{name: str(path) for name, path in given.items() if path is not None}}
    GRPC.begin(connection.url)
    # No proxy of the environment can reach this machine.
    direct = (("grpc.enable_http_proxy", 0),) if address.is_loopback else ()
    return tritonclient.grpc.InferenceServerClient(address.netloc, channel_args=[*_CHANNEL_OPTIONS, *direct], **files)


def _http_client(connection: Connection) -> Any:
    import gevent.ssl  # type: ignore[import-untyped]
    import tritonclient.http

    options: dict[str, Any] = {"network_timeout": connection.deadline_s, "connection_timeout": _CONNECT_TIMEOUT_S}
    if connection.address.tls:
        given = {"ca_certs": connection.tls_ca, "certfile": connection.tls_cert, "keyfile": connection.tls_key}
        files = {name: str(path) for name, path in given.items() if path is not None}
        options |= {"ssl": True, "ssl_options": files, "ssl_context_factory": gevent.ssl.create_default_context}
    return tritonclient.http.InferenceServerClient(connection.address.netloc, **options)
