"""A proxy that the environment names is not result about this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[3] / "deploy" / "entrypoint.sh"
NO_PROXY_HERE = "http://127.0.0.1:9"
READY = """
from pathlib import Path
from server.process import Options, Server
from server.security import RequestTokens
print(Server(options=Options(repository=Path("."), http_port={port}), tokens=RequestTokens(admin="a")).is_ready())
"""


class Ready(BaseHTTPRequestHandler):
    """Answers every task_spec with 200."""

    def do_GET(self) -> None:
        """Say yes."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Print nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server that is ready."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def proxy_environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "all_proxy")}
    return {**environment, "HTTP_PROXY": NO_PROXY_HERE, "http_proxy": NO_PROXY_HERE}


def test_server_is_seen_to_be_ready_when_a_proxy_is_set(port: int) -> None:
    code = READY.format(port=port)
    result = subprocess.run([sys.executable, "-c", code], env=proxy_environment(), capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr


def test_container_is_healthy_when_a_proxy_is_set(port: int, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    words = ["/bin/sh", str(ENTRYPOINT), "healthy", f"http://127.0.0.1:{port}"]
    result = subprocess.run(
        words, env={**proxy_environment(), "MODELS_FOLDER": str(tmp_path)}, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
