"""A server that was started, and the seam behind which a runtime starts and ends it."""

from __future__ import annotations

import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from model.local_servers import state_folder
from model.spec import Frozen
from server.options import Options
from server.security import ServerTokens

LOG_FILE = "triton.log"

ProgressCallback = Callable[[str], None]

_DIRECT_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks by no proxy, whatever HTTP_PROXY says: this machine's loopback address is another one's to a proxy."""


class Server(Frozen):
    """A server that was started; it may have ended since. Its JSON is the state file: it holds the tokens."""

    options: Options
    tokens: ServerTokens
    pid: int = 0
    """The process, of the pip runtime."""
    started: float = 0.0
    """The process's creation time, which tells it from a later one with the same pid."""
    container: str = ""
    """The container's id, of the docker runtime."""

    @property
    def folder(self) -> Path:
        """Its state folder."""
        return state_folder() / str(self.options.grpc_port)

    @property
    def log(self) -> Path:
        """What Triton printed; `Runtime.save_log` brings it up to date."""
        return self.folder / LOG_FILE

    @property
    def label(self) -> str:
        """What tells it apart on its machine, to be shown."""
        return f"container {self.container[:12]}" if self.container else f"pid {self.pid}"

    def is_ready(self) -> bool:
        """Whether Triton answers health checks."""
        try:
            with _DIRECT_OPENER.open(f"{self.options.http_url}/v2/health/ready", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Runtime(ABC):
    """A way to run `tritonserver`. It keeps nothing of its own: a Server says what it is about."""

    poll_interval_s: float = 0.2
    """Seconds between two looks at whether a server still runs."""

    @abstractmethod
    def launch(
        self, options: Options, tokens: ServerTokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Start Triton and return at once, not waiting for its models.

        options: checked, with an absolute repository and absolute files of `security`; its ports are free.
        folder: the state folder of the server, there and private; the runtime may put its own files into it.
        stops_with_parent: end it when the calling process ends.
        report: told of steps that take long, such as the pulling of an image.
        Raises ServerError when the runtime is not there; whatever it has begun is undone then.
        """

    @abstractmethod
    def is_alive(self, server: Server) -> bool:
        """Whether what was launched still runs, ready or not. Raises ServerError where that cannot be found out."""

    @abstractmethod
    def restart_on_failure(self, server: Server) -> None:
        """Have it started again whenever it dies from now on; until then, its first end is the last. It was ready."""

    @abstractmethod
    def restarts(self, server: Server) -> int:
        """How often it was started again after it had died."""

    @abstractmethod
    def stop(self, server: Server) -> None:
        """Ask it to end, wait, kill what is left, and remove what `launch` made outside the state folder."""

    def save_log(self, server: Server) -> None:  # noqa: B027 - most runtimes write it themselves
        """Bring the file `server.log` up to date, where Triton does not write to it itself."""
