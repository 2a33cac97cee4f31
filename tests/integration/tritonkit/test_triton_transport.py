"""The transport to Triton: connections are closed, errors name the token, and no proxy is used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tritonkit.errors import TokenError
from tritonkit.triton.connection import Connection, RequestTokens
from tritonkit.triton.transport import Transport

ROOT = Path(__file__).parents[3]


class _Handler(BaseHTTPRequestHandler):
    """Is ready, and refuses to list models without a token."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_error(403)

    def log_message(self, *of_request: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_connections_do_not_pile_up_when_each_request_comes_from_a_thread_of_its_own(web: str) -> None:
    descriptors = Path("/proc/self/fd")

    def descriptors_after_call(transport: Transport) -> int:
        thread = threading.Thread(target=transport.call, args=("tell its state", "is_server_ready"))
        thread.start()
        thread.join()
        return len(list(descriptors.iterdir()))

    with closing(Transport(Connection(url=web))) as transport:
        first = descriptors_after_call(transport)
        assert max(descriptors_after_call(transport) for _ in range(20)) < first + 10, "three a thread would be 60"


def test_token_that_is_not_of_the_environment_is_not_named_after_it(web: str) -> None:
    refused = pytest.raises(TokenError, match="state file")
    with closing(Transport(Connection(url=web), RequestTokens(admin="kept"))) as transport, refused:
        transport.document("list its models", "get_model_repository_index", admin=True)


def test_proxy_of_the_environment_is_not_asked_about_this_machine(served: str) -> None:
    code = f"from tritonkit.triton.client import TritonClient; print(TritonClient({served!r}).release())"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy"), "http://127.0.0.1:9")
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | proxies, capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", process.stdout), process.stderr
