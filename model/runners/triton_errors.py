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
_FULL = ("exceeds maximum queue size", "request timeout expired")
_NOT_READY = ("not ready", "not at ready state", "no available versions", "is stopping", "is not healthy", "exiting")
_UNKNOWN = ("request for unknown model", "is not available")
_MISFIT = ("unexpected shape", "data-type is", "batch-size must be", "unexpected inference", "expected 1 inputs")
_FORGOTTEN = ("unable to find shared memory region", "unable to find system shared memory region")
_BROKEN = ("failed to connect", "socket closed", "connection reset", "stream removed", "goaway", "broken pipe")
_TOO_MUCH = ("RESOURCE_EXHAUSTED", "429")
_AWAY = ("UNAVAILABLE", "CANCELLED", "502", "503", "504")


class MemoryForgottenError(InferenceError):
    """The server does not know the shared memory that a request spoke of: it was started anew."""


def error_of_answer(
    connection: Connection, doing: str, status: str, message: str, token_shown: str = ""
) -> TritonkitError:
    """The error for a request that was answered with a failure, or by gRPC in the server's place.

    doing: what was to be done, as in "could not ...". status: gRPC's, as `StatusCode.UNAVAILABLE`, or HTTP's.
    token_shown: where the token that was shown comes from, in words; empty where none was.
    """
    url, said = connection.url, _shortened(message)
    low = message.lower()
    if _RESTRICTED in low or status in ("401", "403"):
        lacking = f"for the token of {token_shown}" if token_shown else "without its token"
        return TokenError(
            f"{url} does not {doing} {lacking} ({said}): set ${TOKEN_VARIABLE}, or ${ADMIN_TOKEN_VARIABLE} "
            "for its repository, to the one that it was started with"
        )
    if "DEADLINE_EXCEEDED" in status:
        return late(connection, doing)
    refused = f"{url} could not {doing}: {said}"
    for words, kind in _BY_WORDS:
        if any(word in low for word in words):
            return kind(refused)
    if any(word in status for word in _TOO_MUCH):
        return BusyError(refused)
    if any(word in status for word in _AWAY) or any(word in low for word in _BROKEN):
        return unreachable(connection, said)
    return InferenceError(refused)


_BY_WORDS: tuple[tuple[tuple[str, ...], Callable[[str], TritonkitError]], ...] = (
    (_FULL, BusyError),
    (_NOT_READY, NotReadyError),
    (_UNKNOWN, UnknownModelError),
    (
        _MISFIT,
        lambda said: BatchError(
            f"{said}. What the server loaded is not what its spec says; publish it again with `builder export`"
        ),
    ),
    (_FORGOTTEN, MemoryForgottenError),
)


def _shortened(message: str) -> str:
    """What the server says, without the request's number and its lectures."""
    said = _REQUEST_ID.sub("", message).partition(" NOTE: ")[0]
    return first_line(ValueError(said)).rstrip(".") if said.strip() else "no reason given"


def error_of_connection(connection: Connection, doing: str, error: Exception) -> InferenceError:
    """The error for what Python's sockets raise, and for whatever a port that is not Triton's leads to."""
    if isinstance(error, ssl.SSLError):
        return CertificateError(f"no TLS with {connection.url}: {tls_reason(error, connection)}")
    if isinstance(error, TimeoutError):
        return late(connection, doing)
    return unreachable(connection, f"{type(error).__name__}: {first_line(error)}")


def late(connection: Connection, doing: str) -> DeadlineError:
    """The error for an answer that did not come in time."""
    return DeadlineError(
        f"{connection.url} did not {doing} within {connection.deadline_s:g} s. Is it at work on something else? "
        "Allow more with --deadline (--timeout-s of `server`), or send less at once"
    )


def unreachable(connection: Connection, why: str) -> InferenceError:
    """The error for an address where nobody answers: an UnreachableError, or a CertificateError where TLS is why."""
    if (problem := tls_problem(connection)) is not None:
        return CertificateError(f"no TLS with {connection.url}: {problem}")
    port = "HTTP (8000)" if connection.address.protocol == "http" else "gRPC (8001)"
    return UnreachableError(
        f"no Triton answers at {connection.url} ({why}). "
        f"Start one with `server up`, or give the address of its {port} port with --url."
    )
