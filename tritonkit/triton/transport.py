"""Call Triton through its gRPC or HTTP client, with tokens, a deadline and TLS. Errors become tritonkit errors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tritonkit.errors import CertificateError, InferenceError, TokenError, TritonkitError, UnreachableError
from tritonkit.system.fork_guard import GRPC, ProcessGuard
from tritonkit.triton.connection import (
    ADMIN_TOKEN_VARIABLE,
    TOKEN_VARIABLE,
    Connection,
    RequestTokens,
    tokens_from_environment,
)
from tritonkit.triton.errors import error_from_exception, error_from_status
from tritonkit.triton.http_pool import HttpClientPool
from tritonkit.triton.shared_memory import RegionRegistry
from tritonkit.triton.tls import check_files

# Our errors already report what gRPC would log about a failed handshake.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_CONNECT_TIMEOUT_S = 10.0
_REGISTRY_TIMEOUT_S = 2.0
"""Deadline of a gRPC request about shared memory. It is short, because images can be sent without shared memory."""
_FIRST_SAFE_RELEASE = (2, 50)
"""First Triton release (24.09) that keeps a region while a request uses it (server, pull request 7567)."""
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect to a restarted server within seconds; by default this may take two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Transport:
    """Sends requests to one server. Thread-safe."""

    def __init__(self, connection: Connection, tokens: RequestTokens | None = None) -> None:
        """Create a transport; it connects with the first request. Raises InputError for unusable files, TokenError.

        tokens: read from the environment by default.
        """
        self.connection = connection
        self.address = connection.address
        self._tokens = tokens_from_environment() if tokens is None else tokens
        self._has_environment_tokens = tokens is None
        if self.address.tls:
            check_files(connection)
        self._has_succeeded = False
        self.process = ProcessGuard(f"the connection to {connection.url}")
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
        self,
        action: str,
        method: str,
        *arguments: Any,
        admin: bool = False,
        timeout_s: float = math.inf,
        **options: Any,
    ) -> Any:
        """Call a method of the tritonclient client.

        action: for messages, as in "could not ...". admin: send the token for the model repository.
        timeout_s: a shorter deadline; gRPC only.
        Raises UnknownModelError, TokenError, BatchError, InputError, InferenceError or a subclass.
        """
        self.process.check_current()
        connection = self.connection
        if self._http_pool is None:
            if timeout_s < connection.deadline_s:
                connection = connection.model_copy(update={"deadline_s": timeout_s})
            options["client_timeout"] = connection.deadline_s
        headers = self._headers(admin)
        with self._translate_errors(connection, action, admin):
            answer = self._with_client(lambda client: getattr(client, method)(*arguments, headers=headers, **options))
        self._has_succeeded = True
        return answer

    def document(
        self, action: str, method: str, *arguments: Any, admin: bool = False, timeout_s: float = math.inf
    ) -> Any:
        """Call a method that returns a protobuf message or JSON; return it as JSON."""
        options = {"as_json": True} if self._http_pool is None else {}
        return self.call(action, method, *arguments, admin=admin, timeout_s=timeout_s, **options)

    def _with_client(self, request: Callable[[Any], Any]) -> Any:
        return request(self._channel) if self._http_pool is None else self._http_pool.call(request)

    def _headers(self, admin: bool) -> dict[str, str] | None:
        """Return the headers with the token. Raises TokenError if the connection would expose the token."""
        headers = self._tokens.headers(self.address.protocol, admin)
        if headers and not self.address.tls and not self.address.is_loopback:
            raise TokenError(
                f"{self.connection.url}: the token would be sent without TLS, readable by anyone on the network. Use "
                f"grpcs:// or https://, or unset ${TOKEN_VARIABLE} and ${ADMIN_TOKEN_VARIABLE}"
            )
        return headers

    def close(self) -> None:
        """Close the connection; gRPC requests in flight fail. In a forked process, do nothing."""
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
            message = error.message() or ""
            translated = error_from_status(connection, action, str(error.status()), message, self._token_source(admin))
            raise self._refine(translated) from error
        except Exception as error:  # the HTTP client raises anything if the port is not Triton's
            raise self._refine(error_from_exception(connection, action, error)) from error

    def _token_source(self, admin: bool) -> str:
        """Describe where the token comes from, for messages; empty if none is sent."""
        variable = self._tokens.variable(admin)
        if not variable:
            return ""
        return f"${variable}" if self._has_environment_tokens else "this server's state file"

    def _refine(self, error: TritonkitError) -> TritonkitError:
        """Turn a CertificateError after a successful request into UnreachableError: the server ended in a handshake."""
        return UnreachableError(str(error)) if self._has_succeeded and isinstance(error, CertificateError) else error


class TritonRegionRegistry(RegionRegistry):
    """The shared memory regions that a Triton server has mapped, read and changed through its API."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, region: str, size: int) -> None:
        """Let the server map a region; `region` is its name and its key."""
        self._call("map shared memory", "register_system_shared_memory", region, f"/{region}", size)

    def unregister(self, region: str) -> None:
        """Let the server unmap a region. Fails while a request uses it."""
        self._call("unmap shared memory", "unregister_system_shared_memory", region)

    def registered(self) -> list[str]:
        """Return the names of all mapped regions. Raises InferenceError for a release that is unsafe."""
        release = str(self._document("tell its version", "get_server_metadata")["version"])
        if tuple(map(int, release.split(".")[:2])) < _FIRST_SAFE_RELEASE:
            raise InferenceError(
                f"Triton {release} crashes when it unmaps memory that it still reads",
                code="shared_memory.unsafe_release",
            )
        document = self._document("list shared memory", "get_system_shared_memory_status")
        if isinstance(document, dict):
            return list(document.get("regions", {}))
        return [str(row["name"]) for row in document]

    def _call(self, action: str, method: str, *arguments: Any) -> None:
        self._transport.call(action, method, *arguments, timeout_s=_REGISTRY_TIMEOUT_S)

    def _document(self, action: str, method: str) -> Any:
        return self._transport.document(action, method, timeout_s=_REGISTRY_TIMEOUT_S)


def _grpc_client(connection: Connection) -> Any:
    import tritonclient.grpc

    address = connection.address
    files: dict[str, Any] = {}
    if address.tls:
        paths = {
            "root_certificates": connection.tls_ca,
            "certificate_chain": connection.tls_cert,
            "private_key": connection.tls_key,
        }
        files = {"ssl": True, **{name: str(path) for name, path in paths.items() if path is not None}}
    GRPC.begin(connection.url)
    # A proxy from the environment cannot reach this machine.
    direct = (("grpc.enable_http_proxy", 0),) if address.is_loopback else ()
    return tritonclient.grpc.InferenceServerClient(address.netloc, channel_args=[*_CHANNEL_OPTIONS, *direct], **files)


def _http_client(connection: Connection) -> Any:
    import gevent.ssl  # type: ignore[import-untyped]
    import tritonclient.http

    options: dict[str, Any] = {"network_timeout": connection.deadline_s, "connection_timeout": _CONNECT_TIMEOUT_S}
    if connection.address.tls:
        paths = {"ca_certs": connection.tls_ca, "certfile": connection.tls_cert, "keyfile": connection.tls_key}
        files = {name: str(path) for name, path in paths.items() if path is not None}
        options |= {"ssl": True, "ssl_options": files, "ssl_context_factory": gevent.ssl.create_default_context}
    return tritonclient.http.InferenceServerClient(connection.address.netloc, **options)
