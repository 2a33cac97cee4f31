"""The reference server of the HTTP store, examples/model_store.py, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs import ROOT
from tritonkit.system.commands import free_ports

SERVER = ROOT / "examples" / "model_store.py"


@dataclass
class ModelStore:
    """`kill` and `start` again keep its address and its packages."""

    folder: Path
    token: str = ""
    max_bytes: int = 2**30
    port: int = field(default_factory=lambda: free_ports(1)[0])
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The address of the store."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """A line for each request: what came, and the status of the answer."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def start(self) -> None:
        """Start the server and wait until it listens."""
        words = [SERVER, self.folder, "--port", self.port, "--max-bytes", self.max_bytes]
        environment = {**os.environ, "TRITONKIT_STORE_TOKEN": self.token}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == self.url

    def kill(self) -> None:
        """Kill the server, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def leftovers(self) -> list[Path]:
        """Return the files of unfinished uploads."""
        return [path for path in (self.folder / ".uploads").rglob("*") if path.is_file()]
