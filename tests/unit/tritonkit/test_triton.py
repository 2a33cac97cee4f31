"""The Triton client: addresses, unreachable servers, and the errors of failed requests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from tests.errors import raises
from tritonkit.errors import (
    BatchError,
    BusyError,
    DeadlineError,
    InferenceError,
    InputError,
    NotReadyError,
    TokenError,
    TritonkitError,
    UnknownModelError,
    UnreachableError,
)
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import TOKEN_VARIABLE, Connection
from tritonkit.triton.errors import UnknownRegionError, error_from_status
from tritonkit.triton.retry import RetryPolicy
from tritonkit.triton.runner import TritonRunner


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("::1:8121", "brackets, as in [::1]:8001"),
        ("localhost", "port is missing; Triton's default is 8001"),
        ("http://localhost", "port is missing; Triton's default is 8000"),
        ("http://localhost:8000/v2", "a path"),
        (" localhost:8000", "spaces"),
        ("tcp://localhost:8000", "'tcp'"),
        ("http://me:hidden@localhost:8000", "http://…@localhost:8000: "),
        ("localhost:0", "port 0 "),
        ("localhost:grpc", "port grpc "),
        ("localhost:99999", "port 99999 "),
        ("localhost:", "port is missing"),
        (":8001", "host is missing"),
        ("://localhost:1", "scheme is missing"),
        ("[zz]:8001", "[zz] is not an IPv6 address"),
    ],
)
def test_server_says_what_is_wrong_when_the_address_is_malformed(url: str, cause: str) -> None:
    with raises(InputError, "connection.address", cause) as caught:
        TritonClient(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("localhost:8001", "grpc"),
        ("grpc://10.0.0.1:8001", "grpc"),
        ("http://[::1]:8000", "http"),
        ("HTTP://Localhost:8000/", "http"),
        ("localhost:8001/", "grpc"),
    ],
)
def test_server_picks_the_protocol_when_the_address_says_it(url: str, protocol: str) -> None:
    assert TritonClient(url).protocol == protocol


@pytest.mark.parametrize(
    ("url", "tls", "loopback"),
    [
        ("127.0.0.1:8001", False, True),
        ("grpcs://localhost:8001", True, True),
        ("http://[::1]:8000", False, True),
        ("https://triton.example:443", True, False),
        ("127.0.0.1.example:8001", False, False),
        ("10.0.0.1:8001", False, False),
    ],
)
def test_address_knows_tls_and_loopback(url: str, tls: bool, loopback: bool) -> None:
    address = Connection(url=url).address
    assert (address.tls, address.is_loopback) == (tls, loopback)


def test_certificates_are_refused_when_the_address_is_one_without_tls(pytestconfig: pytest.Config) -> None:
    with raises(InputError, "tls.unused_certificate"):
        TritonClient(Connection(url="grpc://localhost:8001", tls_ca=pytestconfig.rootpath / "pyproject.toml"))


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_error_says_how_to_start_a_server_when_nothing_listens(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        url = f"{scheme}127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=rf"{url} .*`server up`.*--url"):
            TritonRunner(TritonClient(Connection(url=url, deadline_s=5)), "pets")


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_deadline_error_is_raised_when_a_server_listens_and_does_not_answer(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with raises(DeadlineError, "server.deadline", "0.3 s", "--deadline"):
            TritonRunner(TritonClient(Connection(url=url, deadline_s=0.3)), "pets")


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ключ"])
def test_token_is_refused_when_no_header_could_hold_it(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with raises(TokenError, "server.token", "$TRITONKIT_TOKEN: "):
        TritonClient("localhost:8001")


@pytest.mark.parametrize(
    ("status", "message", "error_type"),
    [
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'x' is not found", UnknownModelError),
        ("404", "Request for unknown model: 'x' version 7 is not found", UnknownModelError),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'x' has no available versions", NotReadyError),
        ("503", "Request for unknown model: 'x' version 1 is not at ready state", NotReadyError),
        ("StatusCode.UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting", NotReadyError),
        ("StatusCode.UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", BusyError),
        ("StatusCode.RESOURCE_EXHAUSTED", "no more memory", BusyError),
        ("429", "slow down", BusyError),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'tritonkit-token'", TokenError),
        ("403", "This API is restricted, expecting header 'tritonkit-token'", TokenError),
        ("401", "", TokenError),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError),
        ("StatusCode.UNAVAILABLE", "Socket closed", UnreachableError),
        ("502", "an exception occurred in the client while decoding the response", UnreachableError),
        ("StatusCode.INVALID_ARGUMENT", "[request id: 1] unexpected shape for input 'image'. NOTE: …", BatchError),
        ("400", "inference input 'image' data-type is 'FP32', but model 'x' expects 'UINT8'", BatchError),
        ("StatusCode.INVALID_ARGUMENT", "Unable to find shared memory region: 'a'", UnknownRegionError),
        ("StatusCode.INTERNAL", "Cannot unregister shared memory region 'a', it is currently in use.", InferenceError),
        ("StatusCode.INTERNAL", "the backend failed", InferenceError),
        ("None", "", InferenceError),
    ],
)
def test_status_and_message_of_triton_become_an_error(
    status: str, message: str, error_type: type[TritonkitError]
) -> None:
    error = error_from_status(Connection(url="127.0.0.1:9"), "run 'x'", status, message)
    assert type(error) is error_type
    assert error.code != "inference.failed"
    assert "127.0.0.1:9" in str(error)
    assert "request id" not in str(error)
    assert "NOTE" not in str(error)


def failing(*errors: TritonkitError) -> Callable[[], str]:
    pending = iter(errors)

    def request() -> str:
        for error in pending:
            raise error
        return "answer"

    return request


def test_request_is_repeated_when_its_failure_may_pass() -> None:
    seen: list[TritonkitError] = []
    errors = UnreachableError("a"), NotReadyError("b"), BusyError("c"), DeadlineError("d")
    assert RetryPolicy(60, seen.append).call(failing(*errors)) == "answer"
    assert seen == list(errors)


@pytest.mark.parametrize("error", [InferenceError("x"), BatchError("x"), UnknownModelError("x"), TokenError("x")])
def test_request_is_not_repeated_when_its_failure_will_not_pass(error: TritonkitError) -> None:
    seen: list[TritonkitError] = []
    with pytest.raises(type(error)):
        RetryPolicy(60, seen.append).call(failing(error))
    assert not seen


def test_last_failure_shows_how_long_it_was_retried() -> None:
    with pytest.raises(BusyError, match=r"^full .*0\.1 s \(--patience\)\.$"):
        RetryPolicy(0.1).call(failing(*[BusyError("full")] * 100), option="--patience")
    with pytest.raises(BusyError, match=r"^full$"):
        RetryPolicy(0).call(failing(BusyError("full")))


def test_nothing_is_repeated_when_it_is_over() -> None:
    over = threading.Event()
    seen: list[TritonkitError] = []

    def on_failure(error: TritonkitError) -> None:
        seen.append(error)
        over.set()

    with pytest.raises(BusyError, match=r"^second$"):
        RetryPolicy(60, on_failure, over).call(failing(BusyError("first"), BusyError("second"), BusyError("third")))
    assert len(seen) == 1
