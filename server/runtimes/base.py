"""A started server, and the interface of the runtimes that start and stop it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from server.options import Options
from tritonkit.errors import InferenceError
from tritonkit.spec import Frozen
from tritonkit.system.local_servers import state_folder
from tritonkit.triton.connection import Connection, RequestTokens

if TYPE_CHECKING:
    from tritonkit.triton.client import TritonClient

LOG_FILE = "triton.log"

ProgressCallback = Callable[[str], None]


class Server(Frozen):
    """A server that was started and may have ended since. Its JSON is the state file, which includes the tokens."""

    options: Options
    tokens: RequestTokens
    pid: int = 0
    """The process id, for the pip runtime."""
    started: float = 0.0
    """The creation time of the process: a later process can have the same pid."""
    container: str = ""
    """The container id, for the docker runtime."""

    @property
    def folder(self) -> Path:
        """The state folder of the server."""
        return state_folder() / str(self.options.grpc_port)

    @property
    def log(self) -> Path:
        """The log file of Triton; `Runtime.save_log` updates it."""
        return self.folder / LOG_FILE

    @property
    def label(self) -> str:
        """The pid or the container id, as shown to a user."""
        return f"container {self.container[:12]}" if self.container else f"pid {self.pid}"

    def client(self, timeout_s: float = 20.0) -> TritonClient:
        """Return a client over HTTP, with the tokens of the state file. timeout_s: the deadline of one request."""
        from tritonkit.triton.client import TritonClient

        connection = Connection(url=self.options.http_url, deadline_s=timeout_s)
        return TritonClient(connection, tokens=self.tokens)

    def is_ready(self) -> bool:
        """Whether Triton answers its readiness check."""
        with self.client(timeout_s=2) as client:
            try:
                return client.is_ready()
            except InferenceError:
                return False


class Runtime(ABC):
    """Starts and stops `tritonserver`. It has no state: each method gets the Server."""

    poll_interval_s: float = 0.2
    """Seconds between two checks whether a server still runs."""

    @abstractmethod
    def launch(
        self, options: Options, tokens: RequestTokens, folder: Path, stops_with_parent: bool, report: ProgressCallback
    ) -> Server:
        """Start Triton and return without waiting for its models.

        options: validated, with absolute paths; the ports are free.
        folder: the existing, private state folder of the server; the runtime may write its own files there.
        stops_with_parent: stop Triton when the calling process ends.
        report: called with each slow step, such as pulling an image.
        Raises ServerError when the runtime is not available; everything started so far is then removed.
        """

    @abstractmethod
    def is_alive(self, server: Server) -> bool:
        """Whether the server still runs, ready or not. Raises ServerError when this is unknown."""

    @abstractmethod
    def enable_restarts(self, server: Server) -> None:
        """Restart the server from now on when it crashes. Called once, when the server is ready."""

    @abstractmethod
    def restart_count(self, server: Server) -> int:
        """Return how often the server was restarted after a crash."""

    @abstractmethod
    def stop(self, server: Server) -> None:
        """Stop the server; remove what `launch` created outside the state folder."""

    def save_log(self, server: Server) -> None:  # noqa: B027 - the pip runtime writes the file directly
        """Update the file `server.log`, if Triton does not write to it directly."""
