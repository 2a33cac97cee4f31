"""Starts the processes of a training on this host, and waits for them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from train.distributed.processes import Processes
from tritonkit.system.console import TRACEBACK_VARIABLE

_PATIENCE_S = 5.0
"""How long processes may take to end after one of them has failed."""


def launch(command: Sequence[str], processes: Processes) -> None:
    """Run a command in each of the processes, with torchrun's variables, and wait until all have ended.

    A process that fails replies with a pickled exception on stdout. Raises that exception, or ChildProcessError for a
    process that was killed; the other processes are then ended. They also end if this process does: their standard
    input is a pipe that it alone holds open.
    """
    count, port = processes.on_host, find_free_network_port()
    threads = max(1, torch.get_num_threads() // count)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with _lifeline() as stdin, ThreadPoolExecutor(count) as executor:
        started = [
            subprocess.Popen(  # noqa: S603 - our own command
                command,
                env={**environment, **processes.variables(rank, port)},
                stdin=stdin,
                stdout=subprocess.PIPE,
                # Only the first process has something to say; the others report their errors on stdout.
                stderr=None if rank == 0 or os.environ.get(TRACEBACK_VARIABLE) else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then ends the others
            )
            for rank in range(count)
        ]
        try:
            ends = [executor.submit(_wait_for, process, rank, count) for rank, process in enumerate(started)]
            errors = [error for end in wait(ends, return_when=FIRST_EXCEPTION).done if (error := end.exception())]
            if errors and all(map(is_peer_lost, errors)):
                # The process that caused it may take a moment longer to end.
                errors += [error for end in wait(ends, _PATIENCE_S).done if (error := end.exception())]
            if errors:
                raise min(errors, key=is_peer_lost)
        finally:
            _end(started)


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process of the training has ended."""
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in text)


def _wait_for(process: subprocess.Popen[bytes], rank: int, count: int) -> None:
    reply, _ = process.communicate()
    if process.returncode == 0:
        return
    if process.returncode < 0:
        cause = signal.Signals(-process.returncode).name
        hint = ", often for lack of memory" if cause == "SIGKILL" else ""
        raise ChildProcessError(f"process {rank} of {count} was ended by {cause}{hint}")
    if not reply:
        raise ChildProcessError(f"process {rank} of {count} ended with exit code {process.returncode}")
    raise pickle.loads(reply)  # noqa: S301 - written by our own process


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _lifeline() -> Iterator[int]:
    """Yield the reading end of a pipe; its other end is closed when the block or this process ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)
