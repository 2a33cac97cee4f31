"""Run a function in a forked process that reports its steps through a pipe and can be killed at any moment."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class ForkedProcess:
    """A forked process that runs a function."""

    pid: int
    steps: int
    """Read end of the pipe with the steps, one on each line."""
    output: bytes = b""

    def wait(self, seconds: float | None, step: str | None = None) -> bool:
        """Wait until the process ends or begins `step`; return False on a timeout."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while step is None or f"{step}\n".encode() not in self.output:
            remaining_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.steps], [], [], remaining_s)
            if not ready:
                return False
            chunk = os.read(self.steps, 4096)
            if not chunk:  # the process ended, which closed its end of the pipe
                return True
            self.output += chunk
        return True

    @property
    def step(self) -> str:
        """The step that began last."""
        lines = self.output.decode().splitlines()
        return lines[-1].partition(":")[0] if lines else "its first step"

    def end(self, kill: bool) -> int:
        """Reap the process, after SIGKILL if `kill`; return its exit code, negative for a signal."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.steps)
        return code


def start_fork(work: Callable[[Callable[[str], None]], None]) -> ForkedProcess:
    """Run `work` in a fork with its own session; its argument is a function that reports a step."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return ForkedProcess(pid, read_end)
    code = 1
    try:
        os.setsid()
        work(lambda step: _write_step(write_end, step))
        code = 0
    except Exception:  # noqa: BLE001 - printed, and shown by the exit code; no code of the parent may run here
        traceback.print_exc()
    finally:
        os._exit(code)


def _write_step(pipe: int, step: str) -> None:
    os.write(pipe, f"{step}\n".encode())
