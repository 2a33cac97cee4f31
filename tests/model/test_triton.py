"""The Triton runner without a Triton: addresses, and what is said when nobody answers."""

from __future__ import annotations

import socket

import pytest

from model.errors import InferenceError, InputError
from model.runners.triton import TritonRunner, TritonServer


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "localhost:", "localhost:grpc", "ftp://localhost:21", "grpc://", "http://localhost:8000/v2"],
)
def test_server_says_what_it_takes_when_the_address_is_malformed(url: str) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT, grpc://HOST:PORT or http://HOST:PORT"):
        TritonServer(url)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [("localhost:8001", "grpc"), ("grpc://10.0.0.1:8001", "grpc"), ("http://[::1]:8000", "http")],
)
def test_server_picks_the_protocol_when_the_address_says_it(url: str, protocol: str) -> None:
    assert TritonServer(url).protocol == protocol


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_runner_tells_how_to_start_a_server_when_nothing_listens(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        url = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InferenceError, match=rf"no Triton answers at {url} .*`server up`.*--url"):
            TritonRunner(TritonServer(url, timeout_s=5), "pets")
