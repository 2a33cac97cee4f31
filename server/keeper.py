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

AGAIN = "tritonkit: started again"
"""How the line begins that tells of it, in Triton's log."""
_PR_SET_PDEATHSIG = 1
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""Who has lived so long begins anew with the shortest pause."""


class Supervisor:
    """One Triton after the other, until it ends by itself or is told to end."""

    def __init__(self, program: Sequence[str], ready: Path) -> None:
        self._program = program
        self._ready = ready
        self._running: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def run(self) -> int:
        """The exit code of the last one; as a shell's for one that a signal ended."""
        pause = _PAUSE_S / 2
        while True:
            began = time.monotonic()
            code = self._run_once()
            if code == 0 or self._told_to_end or not self._ready.exists():
                return code if code >= 0 else 128 - code
            pause = _PAUSE_S if time.monotonic() - began > _STEADY_S else min(2 * pause, _LONGEST_PAUSE_S)
            print(f"{AGAIN} in {pause:.0f} s: Triton ended with {_cause(code)}", flush=True)
            self._sleep(pause)
            if self._told_to_end:
                return 0

    def end(self, number: int, frame: FrameType | None) -> None:
        """Pass the wish to end on; a handler of signals."""
        self._told_to_end = True
        if self._running is not None:
            self._running.terminate()

    def _run_once(self) -> int:
        # A signal between the start and its note here is seen by the check after it.
        self._running = subprocess.Popen(self._program, preexec_fn=stop_with_parent())
        if self._told_to_end:
            self._running.terminate()
        code = self._running.wait()
        self._running = None
        return code

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._told_to_end and time.monotonic() < until:
            time.sleep(0.1)


def stop_with_parent() -> Callable[[], None]:
    """What a child runs before it becomes a program: prctl(2), PR_SET_PDEATHSIG. The library is loaded beforehand."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def main() -> int:
    """Keep what the command line names."""
    keeper = Supervisor(sys.argv[2:], Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, keeper.end)
    signal.signal(signal.SIGINT, keeper.end)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
