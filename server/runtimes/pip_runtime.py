"""The pip runtime: the `tritonserver` binary of the nvidia-pytriton wheel, as a local process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from server.options import Options, triton_arguments
from server.runtimes.base import LOG_FILE, ProgressCallback, Runtime, Server
from server.runtimes.pip_environment import LOADED_VARIABLE, find_pip_environment
from server.supervisor import RESTART_PREFIX, SUPERVISOR_FILE, stop_with_parent
from tritonkit.triton.companions import ONE_PROCESS, owner_by_name
from tritonkit.triton.connection import RequestTokens

_READY_FILE = "ready"
TRACE_FOLDER = "traces"
_STOP_TIMEOUT_S = 30.0
_RESTART_LINE = re.compile(rf"{RESTART_PREFIX} in \d+ s: Triton ended with ")
"""Can start in the middle of a line: a crashed Triton leaves its last line unfinished."""


class PipRuntime(Runtime):
    """Runs Triton as a local process."""

    def launch(
        self, options: Options, tokens: RequestTokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Copy the backends into `folder` and start the binary under the supervisor. Raises ServerError."""
        environment = find_pip_environment()
        backends = folder.resolve() / "backends"
        environment.copy_backends(backends)
        arguments = triton_arguments(options, tokens, str(options.repository), backend_directory=str(backends))
        arguments.append(f"--model-config-name={ONE_PROCESS}")
        # `client shadow` turns the trace of a model on; over the network, the file cannot be set.
        traces = folder.resolve() / TRACE_FOLDER
        shutil.rmtree(traces, ignore_errors=True)  # of a server that was killed
        traces.mkdir(mode=0o700, exist_ok=True)  # they contain images of live requests
        arguments.append(f"--trace-config=triton,file={traces / 'trace.json'}")
        # Served by one process, NAME_encoded does not load NAME by itself, as an ensemble does.
        owners = {owner for model in options.models if (options.repository / (owner := owner_by_name(model))).is_dir()}
        arguments += [f"--load-model={owner}" for owner in sorted(owners - {"", *options.models})]
        if options.cache_mib:
            arguments.append(f"--cache-directory={environment.caches}")
        ready = folder.resolve() / _READY_FILE
        ready.unlink(missing_ok=True)
        check = json.dumps(_signature_check(options))
        supervisor = [sys.executable, "-I", str(SUPERVISOR_FILE), str(ready), check]
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                [*supervisor, str(environment.binary), *arguments],
                env={**environment.environment(), LOADED_VARIABLE: str(folder.resolve() / "loaded")},
                cwd=folder,  # not tritonkit's folder: Triton's Python stubs import `model`
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=stop_with_parent() if stops_with_parent else None,
            )
        try:
            started = psutil.Process(process.pid).create_time()
        except BaseException:
            process.kill()  # without a state file `server down` could not stop it
            raise
        return Server(options=options, tokens=tokens, pid=process.pid, started=started)

    def is_alive(self, server: Server) -> bool:
        """Whether the started process still runs."""
        return _find_process(server) is not None

    def enable_restarts(self, server: Server) -> None:
        """Create the file that the supervisor looks for when Triton crashes."""
        (server.folder / _READY_FILE).touch()

    def restart_count(self, server: Server) -> int:
        """Count the restarts in the log."""
        return len(_RESTART_LINE.findall(server.log.read_text(errors="replace"))) if server.log.is_file() else 0

    def stop(self, server: Server) -> None:
        """Terminate the process; kill it and its children after a timeout."""
        process = _find_process(server)
        if process is None:
            return
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


def _find_process(server: Server) -> psutil.Process | None:
    try:
        process = psutil.Process(server.pid)
        is_same = abs(process.create_time() - server.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_same else None


def _signature_check(options: Options) -> list[str]:
    """The command that checks signatures before a restart; empty where the server requires none."""
    if options.require_signed is None:
        return []
    arguments = map(str, (options.repository, options.require_signed, *options.models))
    # Triton's libraries are not those of this Python.
    return ["env", "-u", "LD_LIBRARY_PATH", sys.executable, "-P", "-m", "tritonkit.repository.signing", *arguments]
