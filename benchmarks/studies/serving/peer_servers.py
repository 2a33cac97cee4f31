"""Start the servers of benchmarks/peers, and pause those that are not measured."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.studies.serving.closed_loop import Endpoint
from tritonkit.errors import InputError, ServerError, UnreachableError
from tritonkit.system.commands import free_ports

ROOT = Path(__file__).parents[3]
ENVIRONMENTS = ROOT / ".cache" / "peers"
QUIET = {
    "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=False",
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
}
"""No line for each request, as for the others, and no report to anyone."""


@dataclass(frozen=True)
class Peer:
    """A server file of benchmarks/peers."""

    name: str
    package: str
    """On PyPI; its environment has the same name."""
    arguments: tuple[str, ...]
    """Of Python; `{port}` is replaced."""


PEERS = (
    Peer("FastAPI", "fastapi", ("-m", "benchmarks.peers.fastapi_server", "{port}")),
    Peer("LitServe", "litserve", ("-m", "benchmarks.peers.litserve_server", "{port}")),
    Peer(
        "BentoML",
        "bentoml",
        (
            *("-m", "bentoml", "serve", "benchmarks.peers.bentoml_service:Pictures"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
    ),
    Peer("MLServer", "mlserver", ("-m", "benchmarks.peers.mlserver_runtime", "{port}")),
)


@dataclass(frozen=True)
class RunningServer:
    """A server, and how to ask it for the class of a picture."""

    pid: int
    endpoint: Endpoint

    def processes(self) -> list[psutil.Process]:
        """Return the process and all below it."""
        return family_of(self.pid)

    def cpu_s(self) -> float:
        """Return the CPU seconds of its processes so far."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.processes()))


@contextmanager
def paused(servers: Iterable[RunningServer]) -> Iterator[None]:
    """Stop servers for a while, so that one that polls takes nothing from the one that is measured."""
    processes = [process for server in servers for process in server.processes()]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):  # Triton takes a process of a model for dead that resumes after it
            process.resume()


def family_of(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def python_of(peer: Peer) -> Path:
    """Return the interpreter of its environment. Raises InputError."""
    python = ENVIRONMENTS / peer.package / "bin" / "python"
    if not python.is_file():
        raise InputError(f"{python}: no such file; scripts/peers.sh makes it", code="data.no_peer")
    return python


@contextmanager
def serve_peer(peer: Peer, variables: Mapping[str, str], picture: bytes) -> Iterator[RunningServer]:
    """Start a peer on a free port, and stop it. Raises InputError, ServerError.

    variables: the settings that benchmarks/peers reads. picture: a JPEG, which is sent until an answer comes.
    """
    (port,) = free_ports(1)
    command = [str(python_of(peer)), *(argument.format(port=port) for argument in peer.arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONHOME"}}
    environment |= {**variables, **QUIET, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        running = RunningServer(
            process.pid, Endpoint(f"127.0.0.1:{port}", "/classify", {"Content-Type": "image/jpeg"}, picture)
        )
        try:
            if not _answers(process, running.endpoint):
                log.seek(0)
                raise ServerError(f"{peer.name} did not start:\n{log.read()[-2000:]}", code="drill.peer_not_ready")
            yield running
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server with all its processes."""
    with suppress(psutil.NoSuchProcess):  # it has ended
        family = family_of(process.pid)
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for member in alive:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def _answers(process: subprocess.Popen[bytes], endpoint: Endpoint, timeout_s: float = 120) -> bool:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(UnreachableError):
            if endpoint.ask()[0] == 200:
                return True
        time.sleep(0.2)
    return False
