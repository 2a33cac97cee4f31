"""The docker runtime with an engine that is gone, and with one that speaks a little of Docker's own HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import Result

from server.options import Options
from server.process import find_log, running_servers, start, state_folder
from server.runtimes.base import Server
from server.runtimes.table import runtime_of
from server.security import RequestTokens

Command = Callable[..., Result]
CONTAINER = "0123456789ab"
WRITTEN = "2024-11-21T10:22:59.123456789Z"


class FakeDockerEngine(ThreadingHTTPServer):
    """An engine with one container, that has printed something. Format: Docker Engine API 1.43."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.printed = b"I1121 ready\n"
        self.requests: list[str] = []

    def answer(self, path: str) -> bytes:
        """What it says to a task_spec, without the version of the API."""
        documents: dict[str, object] = {
            "/version": {"ApiVersion": "1.43"},
            "/info": {"Runtimes": {"runc": {}}},
            "/networks": [],
            "/images/mine:1/json": {"Id": "mine"},
            "/containers/create": {"Id": CONTAINER},
            f"/containers/{CONTAINER}/json": {
                "Id": CONTAINER,
                "Image": "mine",
                "State": {"Status": "running"},
                "Config": {"Tty": True, "Labels": {}},
            },
        }
        where, _, query = path.partition("?")
        if where.endswith("/logs"):
            return f"{WRITTEN} I1121 ready\n".encode() if "timestamps=1" in query else self.printed
        return json.dumps(documents.get(where, {"message": "there is no such thing"})).encode()


class Answers(BaseHTTPRequestHandler):
    """How the engine answers."""

    server: FakeDockerEngine

    def do_GET(self) -> None:
        """Answer whatever is request, and remember it."""
        path = self.path.removeprefix("/v1.43")
        self.server.requests.append(f"{self.command} {path}")
        missing = path.startswith("/containers/tritonkit-")
        content = b"OK" if path == "/_ping" else self.server.answer(path)
        self.send_response(404 if missing else 201 if "create" in path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """The same, after the task_spec's document has been read."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_DELETE(self) -> None:
        """The same."""
        self.do_GET()

    def log_message(self, *said: object) -> None:
        """Print nothing."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDockerEngine]:
    """The engine of this machine's settings."""
    with FakeDockerEngine() as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{engine.server_port}")
        yield engine
        engine.shutdown()


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server in a container, of port 9001."""
    monkeypatch.setenv("TRITONKIT_STATE", str(tmp_path / "state"))
    (tmp_path / "repository" / "pets").mkdir(parents=True)
    (tmp_path / "repository" / "pets" / "config.pbtxt").touch()
    options = Options(repository=tmp_path / "repository", grpc_port=9001, runtime="docker")
    server = Server(options=options, tokens=RequestTokens(admin="a"), container=CONTAINER)
    server.folder.mkdir(parents=True)
    (server.folder / "server.json").write_text(server.model_dump_json())
    return server


@pytest.fixture
def unreachable_server(remembered: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """One whose engine is gone; its log is still there."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    remembered.log.write_text("I1121 the last that was seen\n")
    return remembered


def test_commands_name_the_way_out_when_the_engine_of_a_container_is_gone(
    command: Command, unreachable_server: Server, tmp_path: Path
) -> None:
    state = unreachable_server.folder / "server.json"
    up = ("up", "--repository", tmp_path / "repository", "--grpc-port", 9001, "--force")
    for words in (("status",), ("down",), ("down", "--all"), ("reload",), up):
        completed = command("server", *words)
        assert (completed.exit_code, f"delete {state}" in completed.stderr) == (3, True), completed.output
        assert "gRPC port 9001 (container 0123456789ab)" in completed.stderr
    state.unlink()
    assert running_servers() == []
    assert command("server", "status").exit_code == 0


def test_log_is_shown_as_it_was_seen_last_when_the_engine_is_gone(command: Command, unreachable_server: Server) -> None:
    logs = command("server", "logs")
    assert (logs.exit_code, logs.stdout) == (0, "I1121 the last that was seen\n")
    assert "log of gRPC port 9001, state unknown, last written" in logs.stderr


def test_status_shows_the_other_servers_when_the_engine_of_one_is_gone(
    command: Command, unreachable_server: Server, tiny_repository: Path, free_ports: Callable[[], list[str]]
) -> None:
    http, grpc, metrics = map(int, free_ports()[1::2])
    other_server = start(
        Options(repository=tiny_repository, http_port=http, grpc_port=grpc, metrics_port=metrics), True
    )
    completed = command("server", "status")
    assert (completed.exit_code, f"{tiny_repository}: " in completed.stdout) == (3, True), completed.output
    assert command("server", "down", "--all").exit_code == 3
    assert not runtime_of(other_server).is_alive(other_server)
    assert unreachable_server.folder.is_dir()


@pytest.mark.usefixtures("engine")
def test_log_of_a_container_is_as_old_as_its_last_line(remembered: Server) -> None:
    log = find_log(None)
    assert (log.running, log.path) == (True, remembered.log)
    assert remembered.log.read_bytes() == b"I1121 ready\n"
    assert log.written == datetime(2024, 11, 21, 10, 22, 59, 123456, tzinfo=UTC)
    newer = state_folder() / "9005" / "triton.log"
    newer.parent.mkdir()
    newer.write_text("of a server that failed since\n")
    assert find_log(None).path == newer


def test_log_of_a_container_is_written_when_there_is_more_of_it(remembered: Server, engine: FakeDockerEngine) -> None:
    find_log(None)
    before = remembered.log.stat().st_ino
    find_log(None)
    assert remembered.log.stat().st_ino == before
    engine.printed += b"E1121 it failed\n"
    assert find_log(None).path.read_bytes() == engine.printed


def test_container_is_removed_when_its_command_ends_in_a_folder_with_a_package_of_our_name(
    tmp_path: Path, engine: FakeDockerEngine
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    code = f"from server.runtimes.docker_runtime import start_guard as stop; stop({CONTAINER!r})"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    deadline = time.monotonic() + 30
    while not [request for request in engine.requests if request.startswith(f"DELETE /containers/{CONTAINER}")]:
        assert time.monotonic() < deadline, engine.requests
        time.sleep(0.05)


def test_container_is_removed_when_nobody_can_be_had_to_watch_over_it(
    remembered: Server, engine: FakeDockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered.options.repository.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "/none")
    options = remembered.options.model_copy(update={"image": "mine:1"})
    with pytest.raises(FileNotFoundError) as caught:
        runtime_of(remembered).launch(options, remembered.tokens, remembered.folder, True, lambda step: None)
    assert caught.value.filename == "/none"
    assert f"POST /containers/{CONTAINER}/start" in engine.requests
    assert [request for request in engine.requests if request.startswith(f"DELETE /containers/{CONTAINER}")]
