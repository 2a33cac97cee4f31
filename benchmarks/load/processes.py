"""Sends the requests of a load from several client processes, each with its own connection."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import numpy as np

from benchmarks.load.arrivals import Load
from benchmarks.load.generator import SenderReport, SupportsInfer, ThreadGenerator
from tritonkit.errors import ExternalError

START_DELAY_S = 0.1
"""Time for all processes to receive a load before its first request."""


class Requests(NamedTuple):
    """A model, and the requests to send to it in turn."""

    runner: SupportsInfer[Any]
    batches: Sequence[Any]
    close: Callable[[], None]


class ProcessGenerator:
    """Shares each load among client processes. Close it."""

    def __init__(self, open_requests: Callable[[int], Requests], processes: int) -> None:
        """Start the processes, and wait until each has its connection.

        open_requests: called in each process with its index; it must be picklable. Raises its errors.
        """
        self.processes = processes
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._workers = []
        self._call_number = 0
        for index in range(processes):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, open_requests, index), daemon=True)
            worker.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(worker)
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def start(self, load: Load, start_ns: int) -> None:
        """Start the share of each process."""
        start_ns = max(start_ns, time.perf_counter_ns() + int(START_DELAY_S * 1e9))
        self._ask("start", [(load.share(index, self.processes), start_ns) for index in range(self.processes)])

    def collect(self) -> SenderReport:
        """Return what happened in all processes."""
        return _merge(self._ask("collect"))

    def stop(self, wait_s: float = math.inf) -> SenderReport:
        """Stop all processes, and wait for the requests in flight, but not longer than `wait_s`."""
        return _merge(self._ask("stop", [(wait_s,)] * self.processes))

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join(5)
            worker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Call a method of the generator in each process; return their answers."""
        self._call_number += 1
        for pipe, values in zip(self._pipes, arguments or [()] * self.processes, strict=True):
            with suppress(BrokenPipeError):  # reported when its answer is read
                pipe.send((self._call_number, method, values))
        return self._receive()

    def _receive(self) -> list[Any]:
        """Return an answer of each process to the last question. Raises the error of one."""
        try:
            answers = [self._answer(pipe) for pipe in self._pipes]
        except (EOFError, OSError) as error:
            raise ExternalError(
                "a client process ended unexpectedly, perhaps for lack of memory; use fewer --processes",
                code="benchmark.client_process",
            ) from error
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def _answer(self, pipe: Connection) -> Any:
        while True:
            number, answer = pipe.recv()
            if number == self._call_number:  # an earlier one was left by Ctrl-C
                return answer


def _merge(parts: Sequence[SenderReport]) -> SenderReport:
    return SenderReport(
        requests=np.concatenate([part.requests for part in parts]),
        cpu_ns=sum(part.cpu_ns for part in parts),
        failed=sum(part.failed for part in parts),
        first_error=next((part.first_error for part in parts if part.first_error), None),
        blocked=sum(part.blocked for part in parts),
        unsent=sum(part.unsent for part in parts),
        is_finished=all(part.is_finished for part in parts),
    )


def _serve(pipe: Connection, open_requests: Callable[[int], Requests], index: int) -> None:
    """Run the generator of one process, until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    try:
        requests = open_requests(index)
    except BaseException as error:  # noqa: BLE001 - raised in the first process
        pipe.send((0, error))
        return
    generator = ThreadGenerator(requests.runner, requests.batches)
    pipe.send((0, None))
    with suppress(EOFError, OSError):
        while True:
            number, method, arguments = pipe.recv()
            answer: Any
            try:
                answer = getattr(generator, method)(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised in the first process
                answer = error
            pipe.send((number, answer))
    requests.close()
