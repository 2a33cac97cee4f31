"""Starts, finds and stops the servers of this machine. A state folder for each gRPC port records them."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from server.lifecycle import ModelManager
from server.load_failures import load_failures
from server.network_policy import check_network_options
from server.options import Options
from server.ports import check_ports_free
from server.runtimes.base import LOG_FILE, ProgressCallback, Server
from server.runtimes.pip_runtime import TRACE_FOLDER
from server.runtimes.table import RUNTIMES, runtime_of
from server.security import load_server_tokens
from tritonkit.errors import InputError, ServerError
from tritonkit.repository.model_folder import find_models, not_a_repository_error
from tritonkit.repository.signing.check import check_signed, delete_python_caches
from tritonkit.spec import Frozen
from tritonkit.system.local_servers import STATE_FILE, state_folder

_REPOSITORY_FILE = "repository.txt"
"""The repository of the log in the same folder; kept when the state file is deleted."""


class ServerLog(Frozen):
    """The log of a server that runs or ran."""

    path: Path
    grpc_port: int
    repository: str
    """Empty if unknown."""
    running: bool | None
    """None if unknown: the Docker engine does not answer."""
    written: datetime
    """When Triton last wrote to the log."""

    @property
    def headline(self) -> str:
        """One line that identifies the log."""
        state = {True: "running", False: "no longer running", None: "state unknown"}[self.running]
        repository = f"of {self.repository}, " if self.repository else ""
        return f"log of gRPC port {self.grpc_port}, {repository}{state}, last written {self.written:%Y-%m-%d %H:%M:%S}"


def start(options: Options, stops_with_parent: bool = False, report: ProgressCallback = lambda step: None) -> Server:
    """Start Triton; `wait_until_ready` returns when it is usable.

    stops_with_parent: stop Triton when the calling process ends, even by SIGKILL.
    report: called with each slow step.
    Raises InputError for a missing repository or model, and for unusable addresses, certificates and tokens;
    CheckFailedError for models that are not signed as the options require; ServerError for a port in use or a missing
    runtime.
    """
    if not find_models(options.repository, options.models):
        raise not_a_repository_error(options.repository)
    check_network_options(options)
    if options.require_signed is not None:
        report("checking signatures")
        delete_python_caches(options.repository)
        check_signed(options.repository, options.models, options.require_signed)
    files = {name: path.resolve() for name, path in options.security.files().items()}
    options = options.model_copy(
        update={
            "repository": options.repository.resolve(),
            "require_signed": options.require_signed and options.require_signed.resolve(),
            "security": options.security.model_copy(update=files),
        }
    )
    tokens = load_server_tokens(options.repository)
    folder = state_folder() / str(options.grpc_port)
    with _lock_folder(folder):
        existing = _read_state(folder / STATE_FILE)
        if existing is not None and _is_alive(existing):  # even while it restarts and its port is free
            port = existing.options.grpc_port
            raise ServerError(
                f"gRPC port {port} is in use by a server of {existing.options.repository}, which runs or restarts. "
                f"`server down --grpc-port {port}` stops it; or choose other ports with --http-port, --grpc-port, "
                "--metrics-port",
                code="server.port_in_use",
            )
        check_ports_free(options.bind_addresses)
        runtime = RUNTIMES[options.runtime]()
        (folder / _REPOSITORY_FILE).write_text(str(options.repository), encoding="utf-8")
        server = runtime.launch(options, tokens, folder, stops_with_parent, report)
        temporary = folder / f".{STATE_FILE}.{os.getpid()}.partial"
        try:
            # Only its owner may read the state file, because it contains the tokens.
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as state:
                state.write(server.model_dump_json())
            temporary.replace(folder / STATE_FILE)
        except BaseException:
            runtime.stop(server)  # without a state file `server down` could not stop it
            raise
    return server


def wait_until_ready(server: Server, timeout_s: float) -> None:
    """Return when all models are loaded; from then on the runtime restarts the server after a crash.

    If a model fails to load, stop the server and raise ServerError with the reason.
    """
    deadline = time.monotonic() + timeout_s
    runtime, timed_out = runtime_of(server), False
    with ExitStack() as on_failure:
        on_failure.callback(stop, server, keep_log=True)
        while True:
            if not runtime.is_alive(server):
                raise ServerError(_failure_text(server, "Triton ended while starting"), code="server.ended")
            if server.is_ready():
                break
            if timed_out:
                headline = "Triton was not ready in time (--timeout-s)"
                raise ServerError(_failure_text(server, headline), code="server.timeout")
            timed_out = time.monotonic() > deadline
            time.sleep(0.1)
        with ModelManager.of(server) as models:
            missing = models.missing(server.options.models)
        if missing:  # Triton reports ready even then
            headline = f"Triton did not load {', '.join(missing)}"
            raise ServerError(_failure_text(server, headline), code="server.model_not_loaded")
        runtime.enable_restarts(server)
        on_failure.pop_all()


def stop(server: Server, keep_log: bool = False) -> None:
    """Stop Triton and its child processes, and delete the state."""
    if keep_log and _owns_folder(server):
        runtime_of(server).save_log(server)
    runtime_of(server).stop(server)
    with _lock_folder(server.folder):
        if not _owns_folder(server):
            return  # another server uses this port and folder now
        (server.folder / STATE_FILE).unlink(missing_ok=True)
        for name in ("backends", TRACE_FOLDER):
            shutil.rmtree(server.folder / name, ignore_errors=True)
        if not keep_log:
            shutil.rmtree(server.folder, ignore_errors=True)


def running_servers(grpc_port: int | None = None) -> list[Server]:
    """Return the running servers of this machine, or the one on a port.

    Raises ServerError if the state of one is unknown: its Docker engine does not answer.
    """
    running, unknown = find_servers(grpc_port)
    for reason in unknown.values():
        raise reason
    return running


def find_servers(grpc_port: int | None = None) -> tuple[list[Server], dict[int, ServerError]]:
    """Return the running servers and, by gRPC port, the errors of servers whose state is unknown."""
    running: list[Server] = []
    unknown: dict[int, ServerError] = {}
    for path in sorted(state_folder().glob(f"{_port_pattern(grpc_port)}/{STATE_FILE}")):
        server = _read_state(path)
        try:
            if server is not None and _is_alive(server):
                running.append(server)
        except ServerError as error:
            unknown[int(path.parent.name)] = error
    return running, unknown


def _is_alive(server: Server) -> bool:
    """Whether a server runs. Raises ServerError with the fix for an engine that is gone for good."""
    try:
        return runtime_of(server).is_alive(server)
    except ServerError as error:
        state = server.folder / STATE_FILE
        raise ServerError(
            f"the state of the server on gRPC port {server.options.grpc_port} ({server.label}) is unknown: {error}. "
            f"If its Docker engine is gone for good, delete {state}; --grpc-port selects another server",
            code="server.unknown_state",
        ) from error


def find_log(grpc_port: int | None) -> ServerLog:
    """Return the log of the server on a port, or the newest log. Raises InputError if there is none.

    If the Docker engine does not answer, the log is the last saved copy.
    """
    running, unknown = find_servers(grpc_port)
    for server in running:
        runtime_of(server).save_log(server)
    logs = sorted(state_folder().glob(f"{_port_pattern(grpc_port)}/{LOG_FILE}"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(f"no server log under {state_folder()}; start a server with `server up`", code="server.no_log")
    newest = logs[-1]
    repository_file = newest.with_name(_REPOSITORY_FILE)
    return ServerLog(
        path=newest,
        grpc_port=int(newest.parent.name),
        repository=repository_file.read_text(encoding="utf-8") if repository_file.is_file() else "",
        running=None if int(newest.parent.name) in unknown else any(server.log == newest for server in running),
        written=datetime.fromtimestamp(newest.stat().st_mtime).astimezone(),
    )


def _port_pattern(grpc_port: int | None) -> str:
    return "*" if grpc_port is None else str(grpc_port)


def _owns_folder(server: Server) -> bool:
    return _read_state(server.folder / STATE_FILE) in (None, server)


def _read_state(path: Path) -> Server | None:
    try:
        return Server.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Create and lock the state folder of a port, so that no other start or stop changes it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                break
        os.close(descriptor)  # another process deleted the folder while this one waited
    try:
        yield
    finally:
        os.close(descriptor)


def _failure_text(server: Server, headline: str) -> str:
    runtime_of(server).save_log(server)
    text = server.log.read_text(errors="replace") if server.log.is_file() else ""
    lines = text.splitlines()
    reasons = load_failures(text) or ([line for line in lines if line.startswith("E")] or lines)[-3:]
    return "\n".join([f"{headline}:", *(f"  {reason}" for reason in reasons), f"The whole log: {server.log}"])
