"""Runs Triton and restarts it after a crash: `python supervisor.py READY CHECK PROGRAM ARGUMENT…`.

READY: a file that exists once Triton was ready. If Triton ends before that, this process ends with the same exit code.
CHECK: a command as a JSON list, which must succeed before each restart; an empty list for none.
A client can crash Triton: release 24.10, which the pip runtime has, crashes when a gRPC request is cancelled at a
certain moment (triton-inference-server/server, issue 7368). This file is run by its path, so it imports nothing of
tritonkit.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

RESTART_PREFIX = "tritonkit: started again"
"""Start of the line in Triton's log that reports a restart."""
REFUSED_PREFIX = "tritonkit: not started again"
"""Start of the line in Triton's log that reports a restart which the check refused."""
SUPERVISOR_FILE = Path(__file__)
_PR_SET_PDEATHSIG = 1
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0
_STABLE_UPTIME_S = 60.0
"""After this uptime the restart back-off resets."""


class Supervisor:
    """Runs Triton until it exits normally or a signal stops it, and restarts it after a crash."""

    def __init__(self, command: Sequence[str], ready_file: Path, check: Sequence[str] = ()) -> None:
        self._command = command
        self._check = check
        self._ready_file = ready_file
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def run(self) -> int:
        """Run Triton and return its last exit code; 128 + N after signal N, as a shell does."""
        pause_s = _FIRST_PAUSE_S / 2
        while True:
            started_s = time.monotonic()
            # A signal may arrive before `_process` is set; the check below handles it.
            self._process = subprocess.Popen(self._command, preexec_fn=stop_with_parent())
            if self._is_stopping:
                self._process.terminate()
            code = self._process.wait()
            self._process = None
            if code == 0 or self._is_stopping or not self._ready_file.exists():
                return code if code >= 0 else 128 - code
            pause_s = (
                _FIRST_PAUSE_S if time.monotonic() - started_s > _STABLE_UPTIME_S else min(2 * pause_s, _MAX_PAUSE_S)
            )
            reason = f"signal {-code}" if code < 0 else f"exit code {code}"
            print(f"{RESTART_PREFIX} in {pause_s:.0f} s: Triton ended with {reason}", flush=True)
            until = time.monotonic() + pause_s
            while not self._is_stopping and time.monotonic() < until:
                time.sleep(0.1)
            if self._is_stopping:
                return 0
            if self._check and (refused := subprocess.run(self._check, check=False).returncode):
                print(f"{REFUSED_PREFIX}: the check before it ended with exit code {refused}", flush=True)
                return refused

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Pass a stop signal on to Triton."""
        self._is_stopping = True
        if self._process is not None:
            self._process.terminate()


def stop_with_parent() -> Callable[[], None]:
    """Return a `preexec_fn` that sends SIGTERM to the child when its parent ends: prctl(2), PR_SET_PDEATHSIG.

    libc is loaded here, before the fork.
    """
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    """Supervise the command of the command line."""
    supervisor = Supervisor(sys.argv[3:], Path(sys.argv[1]), json.loads(sys.argv[2]))
    signal.signal(signal.SIGTERM, supervisor.handle_signal)
    signal.signal(signal.SIGINT, supervisor.handle_signal)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
