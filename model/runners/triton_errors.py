"""What a failed request means: Triton's status and words, or a broken connection, as one of our errors."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable

from model.connection import ADMIN_TOKEN_VARIABLE, TOKEN_VARIABLE, Connection
from model.errors import (
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
from model.tls import tls_problem, tls_reason

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_RESTRICTED = "is restricted, expecting header"
_QUEUE_FULL = ("exceeds maximum queue size", "request timeout expired")
_NOT_READY = ("not ready", "not at ready state", "no available versions", "is stopping", "is not healthy", "exiting")
_UNKNOWN_MODEL = ("request for unknown model", "is not available")
_BATCH_MISMATCH = ("unexpected shape", "data-type is", "batch-size must be", "unexpected inference", "expected 1 inputs")
_UNKNOWN_REGION = ("unable to find shared memory region", "unable to find system shared memory region")
_BROKEN_CONNECTION = ("failed to connect", "socket closed", "connection reset", "stream removed", "goaway", "broken pipe")
_BUSY_STATUSES = ("RESOURCE_EXHAUSTED", "429")
_UNREACHABLE_STATUSES = ("UNAVAILABLE", "CANCELLED", "502", "503", "504")


class UnknownRegionError(InferenceError):
    """The server does not know the shared memory that a request spoke of: it was started anew."""


def error_from_status(
    connection: Connection, action: str, status: str, message: str, token_source: str = ""
) -> TritonkitError:
    """The error for a request that was answered with a failure, or by gRPC in the server's place.

    doing: what was to be done, as in "could not ...". status: gRPC's, as `StatusCode.UNAVAILABLE`, or HTTP's.
    token_shown: where the token that was shown comes from, in words; empty where none was.
    """
    url, said = connection.url, _shorten(message)
    low = message.lower()
    if _RESTRICTED in low or status in ("401", "403"):
        lacking = f"for the token of {token_source}" if token_source else "without its token"
        return TokenError(
            f"{url} does not {action} {lacking} ({said}): set ${TOKEN_VARIABLE}, or ${ADMIN_TOKEN_VARIABLE} "
            "for its repository, to the one that it was started with"
        )
    if "DEADLINE_EXCEEDED" in status:
        return deadline_error(connection, action)
    refused = f"{url} could not {action}: {said}"
    for words, kind in _ERROR_BY_TEXT:
        if any(word in low for word in words):
            return kind(refused)
    if any(word in status for word in _BUSY_STATUSES):
        return BusyError(refused)
    if any(word in status for word in _UNREACHABLE_STATUSES) or any(word in low for word in _BROKEN_CONNECTION):
        return unreachable_error(connection, said)
    return InferenceError(refused)


_ERROR_BY_TEXT: tuple[tuple[tuple[str, ...], Callable[[str], TritonkitError]], ...] = (
    (_QUEUE_FULL, BusyError),
    (_NOT_READY, NotReadyError),
    (_UNKNOWN_MODEL, UnknownModelError),
    (
        _BATCH_MISMATCH,
        lambda said: BatchError(
            f"{said}. What the server loaded is not what its spec says; publish it again with `builder export`"
        ),
    ),
    (_UNKNOWN_REGION, UnknownRegionError),
)


def _shorten(message: str) -> str:
    """What the server says, without the request's number and its lectures."""
    said = _REQUEST_ID.sub("", message).partition(" NOTE: ")[0]
    return first_line(ValueError(said)).rstrip(".") if said.strip() else "no reason given"


def error_from_exception(connection: Connection, action: str, error: Exception) -> InferenceError:
    """The error for what Python's sockets raise, and for whatever a port that is not Triton's leads to."""
    if isinstance(error, ssl.SSLError):
        return CertificateError(f"no TLS with {connection.url}: {tls_reason(error, connection)}")
    if isinstance(error, TimeoutError):
        return deadline_error(connection, action)
    return unreachable_error(connection, f"{type(error).__name__}: {first_line(error)}")


def deadline_error(connection: Connection, action: str) -> DeadlineError:
    """The error for an answer that did not come in time."""
    return DeadlineError(
        f"{connection.url} did not {action} within {connection.deadline_s:g} s. Is it at work on something else? "
        "Allow more with --deadline (--timeout-s of `server`), or send less at once"
    )


def unreachable_error(connection: Connection, reason: str) -> InferenceError:
    """The error for an address where nobody answers: an UnreachableError, or a CertificateError where TLS is why."""
    if (problem := tls_problem(connection)) is not None:
        return CertificateError(f"no TLS with {connection.url}: {problem}")
    port = "HTTP (8000)" if connection.address.protocol == "http" else "gRPC (8001)"
    return UnreachableError(
        f"no Triton answers at {connection.url} ({reason}). "
        f"Start one with `server up`, or give the address of its {port} port with --url."
    )
