"""A `tritonserver` process: started, waited for, remembered in a state folder, and stopped with all its children."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import ValidationError

from model.errors import InputError, ServerError
from model.files import written_beside
from model.spec import Frozen
from server.log import failures
from server.pip_runtime import PipRuntime, find_pip_runtime
from server.ports import check_free

STATE_VARIABLE = "TRITONKIT_STATE"
_STATE_FILE, _LOG_FILE = "server.json", "triton.log"
_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 30.0


class Options(Frozen):
    """How to serve a repository. Ports are bound on `host` only."""

    repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    cache_mib: int = 0
    """Memory for the answers of models whose configuration enables `response_cache`; 0 is no cache."""

    @property
    def ports(self) -> dict[str, int]:
        """The three ports by what they serve."""
        return {"HTTP": self.http_port, "gRPC": self.grpc_port, "metrics": self.metrics_port}


class Server(Frozen):
    """A server that was started; it may have ended since."""

    options: Options
    pid: int
    started: float
    """The process's creation time, which tells it from a later one with the same pid."""

    @property
    def folder(self) -> Path:
        """Its state folder."""
        return state_folder() / str(self.options.grpc_port)

    @property
    def log(self) -> Path:
        """What Triton printed."""
        return self.folder / _LOG_FILE

    def process(self) -> psutil.Process | None:
        """The running process, None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    def is_ready(self) -> bool:
        """Whether Triton says that it and all its models are ready."""
        url = f"http://{self.options.host}:{self.options.http_port}/v2/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def state_folder() -> Path:
    """Where running servers are remembered: `$TRITONKIT_STATE`, or the user's state folder."""
    chosen = os.environ.get(STATE_VARIABLE)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(chosen) if chosen else Path(base) / "tritonkit" / "servers"


def start(options: Options, stops_with_parent: bool = False) -> Server:
    """Start Triton from the pip wheel; `wait_until_ready` tells when it can be used.

    stops_with_parent: end it when the calling process ends, even by SIGKILL.
    Raises InputError without a repository, ServerError for a port in use or a missing binary.
    """
    if not options.repository.is_dir() or not any(path.is_dir() for path in options.repository.iterdir()):
        raise InputError(f"{options.repository}: no model repository here; make one with `builder export`")
    options = options.model_copy(update={"repository": options.repository.resolve()})
    runtime = find_pip_runtime()
    folder = state_folder() / str(options.grpc_port)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        check_free(options.host, options.ports)
        return _start(options, runtime, folder, stops_with_parent)


def _start(options: Options, runtime: PipRuntime, folder: Path, stops_with_parent: bool) -> Server:
    runtime.lay_out_backends(folder / "backends")
    arguments = [str(runtime.binary), *_arguments(options, folder / "backends"), *_cache(options, runtime)]
    with (folder / _LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            arguments,
            env=runtime.environment(),
            cwd=folder,  # the Python stubs import `model`, and would find ours in the kit's own folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_stop_with_parent() if stops_with_parent else None,
        )
    try:
        server = Server(options=options, pid=process.pid, started=psutil.Process(process.pid).create_time())
        with written_beside(folder / _STATE_FILE) as beside:
            beside.write_text(server.model_dump_json())
    except BaseException:
        process.kill()  # a server that nobody remembers could not be stopped
        raise
    return server


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep two starts on one port from laying out their backends over each other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def wait_until_ready(server: Server, timeout_s: float) -> None:
    """Return when all models are loaded. Stops the server and raises ServerError with the reason otherwise."""
    deadline = time.monotonic() + timeout_s
    try:
        _check_starting(server, late=False)
        while not server.is_ready():
            _check_starting(server, late=time.monotonic() > deadline)
            time.sleep(0.1)
    except BaseException:
        stop(server, keep_log=True)
        raise


def stop(server: Server, keep_log: bool = False) -> None:
    """Ask Triton to end, wait, and end what is left of it and its children."""
    process = server.process()
    if process is not None:
        _end(process)
    if _remembered(server.folder / _STATE_FILE) not in (None, server):
        return  # another server has taken the port, and the folder
    (server.folder / _STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(server.folder / "backends", ignore_errors=True)
    if not keep_log:
        shutil.rmtree(server.folder, ignore_errors=True)


def running_servers() -> list[Server]:
    """The servers that were started here and still run."""
    found = []
    for path in sorted(state_folder().glob(f"*/{_STATE_FILE}")):
        server = _remembered(path)
        if server is not None and server.process() is not None:
            found.append(server)
    return found


def log_of(grpc_port: int | None) -> Path:
    """The log of the server on a port, or of the one started last. Raises InputError when there is none."""
    pattern = f"{'*' if grpc_port is None else grpc_port}/{_LOG_FILE}"
    logs = sorted(state_folder().glob(pattern), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(f"no log of a server under {state_folder()}; start one with `server up`")
    return logs[-1]


def _remembered(path: Path) -> Server | None:
    try:
        return Server.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _end(process: psutil.Process) -> None:
    """Ask a process to end, and kill what is left of it and its children after a while."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
    for left in alive:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(alive, timeout=5)


def _arguments(options: Options, backends: Path) -> list[str]:
    return [
        f"--model-repository={options.repository}",
        f"--backend-directory={backends.resolve()}",
        f"--http-address={options.host}",
        f"--grpc-address={options.host}",
        f"--metrics-address={options.host}",
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        "--exit-timeout-secs=20",
    ]


def _cache(options: Options, runtime: PipRuntime) -> list[str]:
    if not options.cache_mib:
        return []
    return [f"--cache-config=local,size={options.cache_mib * 2**20}", f"--cache-directory={runtime.caches}"]


def _stop_with_parent() -> Callable[[], None]:
    """What the child runs before it becomes Triton: prctl(2), PR_SET_PDEATHSIG. The library is loaded beforehand."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _check_starting(server: Server, late: bool) -> None:
    if server.process() is None:
        raise ServerError(_reason(server, "Triton ended while starting"))
    if late:
        raise ServerError(_reason(server, "Triton was not ready in time (--timeout-s)"))


def _reason(server: Server, headline: str) -> str:
    text = server.log.read_text(errors="replace") if server.log.is_file() else ""
    reasons = failures(text) or text.splitlines()[-3:]
    return "\n".join([f"{headline}:", *(f"  {reason}" for reason in reasons), f"The whole log: {server.log}"])
