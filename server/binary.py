"""The pip runtime: the `tritonserver` binary of the nvidia-pytriton wheel as a process of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from server import keeper
from server.options import Options, triton_arguments
from server.pip_runtime import find_pip_runtime
from server.runtime import LOG_FILE, ProgressCallback, Runtime, Server
from server.security import ServerTokens

_READY_FILE = "ready"
_STOP_TIMEOUT_S = 30.0
_RESTART_LINE = re.compile(rf"{keeper.RESTART_PREFIX} in \d+ s: Triton ended with ")
"""Anywhere in a line: a Triton that dies leaves its last one unfinished."""


class PipRuntime(Runtime):
    """Triton without Docker."""

    def launch(
        self, options: Options, tokens: ServerTokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Start the binary with backends laid out in `folder`, as a keeper's child. Raises ServerError without one."""
        environment = find_pip_runtime()
        backends = folder.resolve() / "backends"
        environment.lay_out_backends(backends)
        arguments = triton_arguments(options, tokens, str(options.repository), backend_directory=str(backends))
        if options.cache_mib:
            arguments.append(f"--cache-directory={environment.caches}")
        ready = folder.resolve() / _READY_FILE
        ready.unlink(missing_ok=True)
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, str(ready), str(environment.binary), *arguments],
                env=environment.environment(),
                cwd=folder,  # the Python stubs import `model`, and would find ours in the kit's own folder
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=keeper.stop_with_parent() if stops_with_parent else None,
            )
        try:
            started = psutil.Process(process.pid).create_time()
        except BaseException:
            process.kill()  # a server that nobody remembers could not be stopped
            raise
        return Server(options=options, tokens=tokens, pid=process.pid, started=started)

    def is_alive(self, server: Server) -> bool:
        """Whether the process runs, and is the one that was started."""
        return _find_process(server) is not None

    def restart_on_failure(self, server: Server) -> None:
        """Leave the mark that the process looks for when Triton dies."""
        (server.folder / _READY_FILE).touch()

    def restarts(self, server: Server) -> int:
        """How often the log tells of it."""
        return len(_RESTART_LINE.findall(server.log.read_text(errors="replace"))) if server.log.is_file() else 0

    def stop(self, server: Server) -> None:
        """Ask the process to end, and kill what is left of it and its children after a while."""
        process = _find_process(server)
        if process is not None:
            _stop_processes(process)


def _find_process(server: Server) -> psutil.Process | None:
    try:
        process = psutil.Process(server.pid)
        is_same = abs(process.create_time() - server.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_same else None


def _stop_processes(process: psutil.Process) -> None:
    try:
        processes = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
    for survivor in alive:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(alive, timeout=5)
