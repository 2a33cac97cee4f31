"""Runs Triton, and starts it again when it dies after it was ready: `python keeper.py READY PROGRAM ARGUMENT…`.

READY: a file that is there as soon as Triton has been ready. Before, its end is the end of this process, with its code.
Triton can die of what clients do: release 24.10, which the pip runtime has, of a gRPC request that is given up at the
wrong moment (triton-inference-server/server, issue 7368). Run by its path, so that it loads nothing else.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

RESTART_PREFIX = "tritonkit: started again"
"""How the line begins that tells of it, in Triton's log."""
_PR_SET_PDEATHSIG = 1
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0
_STABLE_UPTIME_S = 60.0
"""Who has lived so long begins anew with the shortest pause."""


class Supervisor:
    """One Triton after the other, until it ends by itself or is told to end."""

    def __init__(self, command: Sequence[str], ready_file: Path) -> None:
        self._command = command
        self._ready_file = ready_file
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def run(self) -> int:
        """The exit code of the last one; as a shell's for one that a signal ended."""
        pause_s = _FIRST_PAUSE_S / 2
        while True:
            started_s = time.monotonic()
            code = self._run_once()
            if code == 0 or self._is_stopping or not self._ready_file.exists():
                return code if code >= 0 else 128 - code
            pause_s = (
                _FIRST_PAUSE_S if time.monotonic() - started_s > _STABLE_UPTIME_S else min(2 * pause_s, _MAX_PAUSE_S)
            )
            print(f"{RESTART_PREFIX} in {pause_s:.0f} s: Triton ended with {_exit_reason(code)}", flush=True)
            self._sleep(pause_s)
            if self._is_stopping:
                return 0

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Pass the wish to end on; a handler of signals."""
        self._is_stopping = True
        if self._process is not None:
            self._process.terminate()

    def _run_once(self) -> int:
        # A signal between the start and its note here is seen by the check after it.
        self._process = subprocess.Popen(self._command, preexec_fn=stop_with_parent())
        if self._is_stopping:
            self._process.terminate()
        code = self._process.wait()
        self._process = None
        return code

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_stopping and time.monotonic() < until:
            time.sleep(0.1)


def stop_with_parent() -> Callable[[], None]:
    """What a child runs before it becomes a program: prctl(2), PR_SET_PDEATHSIG. The library is loaded beforehand."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def main() -> int:
    """Keep what the command line names."""
    supervisor = Supervisor(sys.argv[2:], Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, supervisor.handle_signal)
    signal.signal(signal.SIGINT, supervisor.handle_signal)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
