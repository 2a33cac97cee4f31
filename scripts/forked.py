"""Work in a fork: its steps are told through a pipe, and it can be killed at any moment."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Forked:
    """A process that does some work."""

    pid: int
    steps: int
    """The pipe's end from which its steps are read, a line each."""
    said: bytes = b""

    def wait(self, seconds: float | None, step: str | None = None) -> bool:
        """Wait until it has ended, or said that it began a step; False when the time was over first."""
        ends = None if seconds is None else time.monotonic() + seconds
        while step is None or f"{step}\n".encode() not in self.said:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            ready, _, _ = select.select([self.steps], [], [], left)
            if not ready:
                return False
            chunk = os.read(self.steps, 4096)
            if not chunk:  # it has ended, and with it its end of the pipe
                return True
            self.said += chunk
        return True

    @property
    def step(self) -> str:
        """The last that it began."""
        lines = self.said.decode().splitlines()
        return lines[-1].partition(":")[0] if lines else "its first step"

    def end(self, kill: bool) -> int:
        """Kill it if wanted, and alone; return its exit code, below 0 for a signal."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.steps)
        return code


def started(work: Callable[[Callable[[str], None]], None]) -> Forked:
    """Do `work` in a fork and a session of its own; it is given what tells of steps."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Forked(pid, reading)
    code = 1
    try:
        os.setsid()
        work(lambda step: _tell(writing, step))
        code = 0
    except Exception:  # noqa: BLE001 - told, and shown by the exit code; nothing of the parent may run here
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(pipe: int, step: str) -> None:
    os.write(pipe, f"{step}\n".encode())
