"""A real MLflow server on this machine: `mlflow server` on SQLite, with its files in an S3 bucket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs import console_script
from tritonkit.system.commands import free_ports

_START_S = 120


@dataclass
class MlflowServer:
    """`kill` and `start` again keep its address and its runs."""

    folder: Path
    bucket: str
    environment: dict[str, str]
    port: int = field(default_factory=lambda: free_ports(1)[0])
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, as MLFLOW_TRACKING_URI takes it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            *(sys.executable, console_script("mlflow"), "server", "--host=127.0.0.1", f"--port={self.port}"),
            *("--workers=1", f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}"),
            *("--no-serve-artifacts", f"--default-artifact-root={self.bucket}/mlflow"),
        ]
        environment = {**os.environ, **self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health"):
                return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the MLflow server did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the server and its worker."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
