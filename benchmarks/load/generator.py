"""Sends the requests of a load, from threads of this process.

In an open loop, one thread at a time is the leader: it takes the next send time, sleeps until it, lets another thread
lead, and sends. So a slow response delays no other request as long as a thread is free.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, takewhile
from typing import Generic, NamedTuple, Protocol, TypeVar

from benchmarks.load.arrivals import ClosedLoop, Load
from benchmarks.load.windows import RequestTimes, Times, times_of
from tritonkit.errors import TritonkitError

MAX_IN_FLIGHT = 1024
"""Senders of an open loop in one process."""
_FIRST_SENDERS = 16
LATE_NS = 1_000_000
"""A request that is sent later than this after its time is late."""
Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


class SupportsInfer(Protocol[BatchIn]):
    """Anything with `infer(batch)`: a model runner, or a PreparedModel."""

    def infer(self, batch: BatchIn) -> object:
        """Run one batch. Raises TritonkitError."""
        ...


class SenderReport(NamedTuple):
    """What the senders did. The counts are since the start of the load."""

    requests: Times
    """Requests that were answered since the last collection."""
    cpu_ns: int
    """CPU time of all client processes since they started."""
    failed: int
    first_error: TritonkitError | None
    blocked: int
    """Requests that were sent late because all senders were waiting for responses."""
    unsent: int
    """Requests that were due before the end and were not sent; counted by `stop`."""
    is_finished: bool
    """Whether all requests of a trace were sent."""


class LoadGenerator(Protocol):
    """Sends the requests of one load after the other."""

    @property
    def processes(self) -> int:
        """Number of client processes."""
        ...

    def start(self, load: Load, start_ns: int) -> None:
        """Start to send. start_ns: time 0 of an open loop, in nanoseconds of CLOCK_MONOTONIC."""
        ...

    def collect(self) -> SenderReport:
        """Return the new requests and the counts; sending continues."""
        ...

    def stop(self, wait_s: float = math.inf) -> SenderReport:
        """Send no more, wait for the requests in flight, but not longer than `wait_s`, and return what happened."""
        ...


class ThreadGenerator(Generic[Batch]):
    """Sends from threads of this process."""

    processes = 1

    def __init__(
        self, runner: SupportsInfer[Batch], batches: Sequence[Batch], max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        """batches: sent in turn. max_in_flight: of an open loop."""
        self._runner, self._batches, self._max_in_flight = runner, batches, max_in_flight
        self._counting, self._leading = threading.Lock(), threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._finished: list[RequestTimes] = []
        self._collected = 0
        self._failed = 0
        self._first_error: TritonkitError | None = None
        self._sent = self._busy = self._blocked = self._unsent = 0
        self._all_were_busy = self._is_finished = False
        self._schedule: Iterator[int] = iter(())
        self._crash: BaseException | None = None

    def start(self, load: Load, start_ns: int) -> None:
        """Start the senders of a load."""
        self._reset()
        if isinstance(load, ClosedLoop):
            for index in range(load.concurrency):
                self._add_thread(partial(self._send_in_closed_loop, index))
            return
        self._schedule = (start_ns + int(second * 1e9) for second in load.times())
        for _ in range(min(_FIRST_SENDERS, self._max_in_flight)):
            self._add_thread(self._send_in_open_loop)

    def collect(self) -> SenderReport:
        """Return what happened. Raises an error of a sender that is no failed request."""
        if self._crash:
            raise self._crash
        new = self._finished[self._collected :]
        self._collected += len(new)
        return SenderReport(
            requests=times_of(new),
            cpu_ns=time.process_time_ns(),
            failed=self._failed,
            first_error=self._first_error,
            blocked=self._blocked,
            unsent=self._unsent,
            is_finished=self._is_finished,
        )

    def stop(self, wait_s: float = math.inf) -> SenderReport:
        """Stop the senders and wait for them, but not longer than `wait_s`."""
        end_ns = time.perf_counter_ns()
        self._stop.set()
        for thread in self._threads:
            thread.join(min(threading.TIMEOUT_MAX, max(0, wait_s - (time.perf_counter_ns() - end_ns) / 1e9)))
        self._unsent += sum(1 for _ in takewhile(lambda due_ns: due_ns <= end_ns, self._schedule))
        return self.collect()

    def _add_thread(self, send: Callable[[], None]) -> None:
        def run() -> None:
            try:
                send()
            except BaseException as error:  # noqa: BLE001 - raised by `collect`
                self._crash = error

        # A daemon: after a second Ctrl-C, the program does not wait for requests in flight.
        self._threads.append(threading.Thread(target=run, name="load", daemon=True))
        self._threads[-1].start()

    def _send_in_closed_loop(self, first: int) -> None:
        clock = time.perf_counter_ns
        for index in count(first):
            if self._stop.is_set():
                return
            self._send(index, clock())

    def _send_in_open_loop(self) -> None:
        while True:
            with self._leading:
                if self._stop.is_set():
                    return
                due_ns = next(self._schedule, None)
                if due_ns is None:
                    self._is_finished = True
                    return
                early_ns = due_ns - time.perf_counter_ns()
                self._blocked += self._all_were_busy and early_ns < -LATE_NS
                if early_ns > 0 and self._stop.wait(early_ns / 1e9):
                    self._unsent += due_ns <= time.perf_counter_ns()
                    return
                index = self._next_request()
            self._send(index, due_ns)
            with self._counting:
                self._busy -= 1

    def _next_request(self) -> int:
        """Count a sender as busy, and add one if none is left to lead. Return the number of the request."""
        with self._counting:
            self._busy += 1
            self._all_were_busy = self._busy == len(self._threads)
        if self._all_were_busy and len(self._threads) < self._max_in_flight:
            self._add_thread(self._send_in_open_loop)
            self._all_were_busy = False
        self._sent += 1
        return self._sent

    def _send(self, index: int, due_ns: int) -> None:
        batch = self._batches[index % len(self._batches)]
        sent_ns = time.perf_counter_ns()
        try:
            self._runner.infer(batch)
        except TritonkitError as error:
            with self._counting:
                self._failed += 1
                self._first_error = self._first_error or error
        else:
            self._finished.append(RequestTimes(due_ns, sent_ns, time.perf_counter_ns()))
