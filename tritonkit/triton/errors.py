"""Translate a failed request to Triton, its status and message or a broken connection, into a tritonkit error."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any

from tritonkit.errors import (
    BatchError,
    BusyError,
    CertificateError,
    DeadlineError,
    InferenceError,
    NotReadyError,
    TokenError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
    first_line,
)
from tritonkit.triton.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE, Connection
from tritonkit.triton.tls import tls_problem, tls_reason

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_RESTRICTED = "is restricted, expecting header"
_QUEUE_FULL = ("exceeds maximum queue size", "request timeout expired")
_NOT_READY = ("not ready", "not at ready state", "no available versions", "is stopping", "is not healthy", "exiting")
_UNKNOWN_MODEL = ("request for unknown model", "is not available")
_BATCH_MISMATCH = (
    "unexpected shape",
    "data-type is",
    "batch-size must be",
    "unexpected inference",
    "expected 1 inputs",
)
_UNKNOWN_REGION = ("unable to find shared memory region", "unable to find system shared memory region")
_BROKEN_CONNECTION = (
    "failed to connect",
    "socket closed",
    "connection reset",
    "stream removed",
    "goaway",
    "broken pipe",
)
_BUSY_STATUSES = ("RESOURCE_EXHAUSTED", "429")
_UNREACHABLE_STATUSES = ("UNAVAILABLE", "CANCELLED", "502", "503", "504")


class UnknownRegionError(InferenceError):
    """The server does not know the shared memory region of a request, because it was restarted."""

    code = "shared_memory.unknown_region"


def error_from_status(
    connection: Connection, action: str, status: str, message: str, token_source: str = ""
) -> TritonkitError:
    """Create the error for a request that the server, or gRPC on its behalf, answered with an error status.

    action: for the message, as in "could not ...". status: of gRPC, such as `StatusCode.UNAVAILABLE`, or HTTP.
    token_source: for the message, where the token that was sent comes from; empty if none was sent.
    """
    url, text = connection.url, message.lower()
    first = _REQUEST_ID.sub("", message).partition(" NOTE: ")[0]
    reason = first_line(ValueError(first)).rstrip(".") if first.strip() else "no reason given"
    if _RESTRICTED in text or status in ("401", "403"):
        token = f"with the token of {token_source}" if token_source else "without a token"
        return TokenError(
            f"{url} does not {action} {token} ({reason}): set ${TOKEN_VARIABLE}, or for the model repository "
            f"${ADMIN_TOKEN_VARIABLE}, to the token that the server was started with"
        )
    if "DEADLINE_EXCEEDED" in status:
        return deadline_error(connection, action)
    sentence = f"{url} could not {action}: {reason}"
    for texts, error_type in _ERROR_BY_TEXT:
        if any(part in text for part in texts):
            return error_type(sentence)
    if any(code in status for code in _BUSY_STATUSES):
        return BusyError(sentence)
    if any(code in status for code in _UNREACHABLE_STATUSES) or any(part in text for part in _BROKEN_CONNECTION):
        return unreachable_error(connection, reason)
    return InferenceError(f"{url} could not {action}: {reason}", code="inference.refused")


_ERROR_BY_TEXT: tuple[tuple[tuple[str, ...], Callable[[str], TritonkitError]], ...] = (
    (_QUEUE_FULL, BusyError),
    (_NOT_READY, NotReadyError),
    (_UNKNOWN_MODEL, UnknownModelError),
    (
        _BATCH_MISMATCH,
        lambda sentence: BatchError(
            f"{sentence}. The loaded model does not match its spec; publish it again with `builder export`",
            code="batch.rejected",
        ),
    ),
    (_UNKNOWN_REGION, UnknownRegionError),
)


def refusal_of_input(error: InferenceError) -> str | None:
    """Return the reason if the model refused the input of a request as invalid; None for any other failure."""
    cause: Any = error.__cause__
    if error.code != "inference.refused" or not hasattr(cause, "status"):
        return None
    if str(cause.status()) not in ("StatusCode.INVALID_ARGUMENT", "400"):
        return None
    return _REQUEST_ID.sub("", str(cause.message()))


def error_from_exception(connection: Connection, action: str, error: Exception) -> InferenceError:
    """Create the error for an exception of a socket, or of a client whose port is not Triton's."""
    if isinstance(error, ssl.SSLError):
        return CertificateError(f"no TLS with {connection.url}: {tls_reason(error, connection)}")
    if isinstance(error, TimeoutError):
        return deadline_error(connection, action)
    return unreachable_error(connection, f"{type(error).__name__}: {first_line(error)}")


def deadline_error(connection: Connection, action: str) -> DeadlineError:
    """Create the error for a request that exceeded its deadline."""
    return DeadlineError(
        f"{connection.url} did not {action} within {connection.deadline_s:g} s. "
        "The server may be busy with other work. Raise --deadline (--timeout-s of `server`), or send less at once"
    )


def unreachable_error(connection: Connection, reason: str) -> InferenceError:
    """Create the error for an unreachable address: CertificateError if TLS is the cause, else UnreachableError."""
    if (problem := tls_problem(connection)) is not None:
        return CertificateError(f"no TLS with {connection.url}: {problem}")
    port = "HTTP (8000)" if connection.address.protocol == "http" else "gRPC (8001)"
    return UnreachableError(
        f"no Triton answers at {connection.url} ({reason}). "
        f"Start one with `server up`, or give the address of its {port} port with --url."
    )
