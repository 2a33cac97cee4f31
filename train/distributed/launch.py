"""Starts the processes of a training on this host, and waits for them."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from train.distributed.processes import Processes
from tritonkit.system.console import TRACEBACK_VARIABLE

_POLL_S = 0.1
_PATIENCE_S = 3.0
"""How long the other processes may take to end after one has failed."""
_GLOO = re.compile(r"\bgloo/(transport|rendezvous)/[\w/]+\.(cc|h):\d+")
"""The place in gloo's source with which its errors begin; other errors hold paths of the user, such as `igloo/`."""


def launch(command: Sequence[str], processes: Processes, while_waiting: Callable[[], None] = lambda: None) -> None:
    """Run a command in each of the processes, with torchrun's variables, and wait until all have ended.

    A process that fails writes a pickled exception to its standard output. Raises that exception, or ChildProcessError
    (`1 of 2 was ended by SIGKILL`) for a process that was killed; the others are then ended. They also end if this
    process does: their standard input is a pipe that it alone holds open. `while_waiting` is called again and again.
    """
    port, threads = find_free_network_port(), max(1, torch.get_num_threads() // processes.on_host)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with ExitStack() as stack:
        stdin = stack.enter_context(_parent_pipe())
        workers: list[_Worker] = []
        stack.callback(_end, workers)
        for rank in range(processes.on_host):
            # A file, because the end of a pipe comes only after that of a killed process's own workers.
            reply = stack.enter_context(TemporaryFile())
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                env={**environment, **processes.variables(rank, port)},
                stdin=stdin,
                stdout=reply,
                # The first process shows the progress. The others have nothing to say but their error.
                stderr=None if rank == 0 or os.environ.get(TRACEBACK_VARIABLE) else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then ends the others
            )
            workers.append(_Worker(f"{rank} of {processes.count}", process, reply))
        while not any(codes := [worker.process.poll() for worker in workers]):
            if None not in codes:
                return
            while_waiting()
            time.sleep(_POLL_S)
        raise _cause(workers)


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process of the training has ended."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and _GLOO.search(str(error)) is not None
    )


@dataclass(frozen=True)
class _Worker:
    name: str
    """The number of the process, such as `1 of 2`."""
    process: subprocess.Popen[bytes]
    reply: IO[bytes]

    def error(self) -> BaseException | None:
        """Return why the process failed; None if it did not, or not yet."""
        code = self.process.poll()
        if not code:
            return None
        if code < 0:
            cause = signal.Signals(-code).name
            hint = ", often for lack of memory" if cause == "SIGKILL" else ""
            return ChildProcessError(f"{self.name} was ended by {cause}{hint}")
        self.reply.seek(0)
        try:
            error: BaseException = pickle.load(self.reply)  # noqa: S301 - written by our own process
        except EOFError:
            return ChildProcessError(f"{self.name} ended with exit code {code}")
        return error


def _cause(workers: Sequence[_Worker]) -> BaseException:
    """Return the error that is not only the loss of another process, which may take a moment longer to end."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        errors = [error for worker in workers if (error := worker.error())]
        causes = [error for error in errors if not is_peer_lost(error)]
        if causes or time.monotonic() > deadline:
            return [*causes, *errors][0]
        time.sleep(_POLL_S)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for worker in workers:
        try:
            worker.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


@contextmanager
def _parent_pipe() -> Iterator[int]:
    """Yield the reading end of a pipe whose other end is closed when the block or this process ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)
