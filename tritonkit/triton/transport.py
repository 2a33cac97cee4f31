"""Call Triton through its gRPC or HTTP client, with tokens, a deadline and TLS. Errors become tritonkit errors."""

from __future__ import annotations

import math
import os
from typing import Any

from tritonkit.errors import CertificateError, TokenError, TritonkitError, UnreachableError
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
from tritonkit.triton.tls import check_files

# Our errors already report what gRPC would log about a failed handshake.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_CONNECT_TIMEOUT_S = 10.0
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

        tokens: of a server on this machine, sent without TLS too; None reads them from the environment.
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
        headers = self._tokens.headers(self.address.protocol, admin)
        if headers and self._has_environment_tokens and not self.address.tls and not self.address.is_loopback:
            raise TokenError(
                f"{self.connection.url}: the token would be sent without TLS, readable by anyone on the network. Use "
                f"grpcs:// or https://, or unset ${TOKEN_VARIABLE} and ${ADMIN_TOKEN_VARIABLE}"
            )

        def request(client: Any) -> Any:
            return getattr(client, method)(*arguments, headers=headers, **options)

        from tritonclient.utils import InferenceServerException

        try:
            answer = request(self._channel) if self._http_pool is None else self._http_pool.call(request)
        except InferenceServerException as error:
            token_source = self._tokens.variable(admin) and (
                f"${self._tokens.variable(admin)}" if self._has_environment_tokens else "this server's state file"
            )
            message = error.message() or ""
            translated = error_from_status(connection, action, str(error.status()), message, token_source)
            raise self._refine(translated) from error
        except Exception as error:  # the HTTP client raises anything if the port is not Triton's
            raise self._refine(error_from_exception(connection, action, error)) from error
        self._has_succeeded = True
        return answer

    def document(
        self, action: str, method: str, *arguments: Any, admin: bool = False, timeout_s: float = math.inf
    ) -> Any:
        """Call a method that returns a protobuf message or JSON; return it as JSON."""
        options = {"as_json": True} if self._http_pool is None else {}
        return self.call(action, method, *arguments, admin=admin, timeout_s=timeout_s, **options)

    def close(self) -> None:
        """Close the connection; gRPC requests in flight fail. In a forked process, do nothing."""
        if not self.process.is_current():
            return
        if self._channel is not None:
            self._channel.close()
        if self._http_pool is not None:
            self._http_pool.close()

    def _refine(self, error: TritonkitError) -> TritonkitError:
        """Turn a CertificateError after a successful request into UnreachableError: the server ended in a handshake."""
        return UnreachableError(str(error)) if self._has_succeeded and isinstance(error, CertificateError) else error


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
