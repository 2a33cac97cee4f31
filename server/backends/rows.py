"""Runs the rows of all requests on the cores of the CPU, and answers each request when its last row is done.

On a CPU a row on one thread takes less time of the cores than its share of a batch or of all threads: its activations
stay in the cache. Only a row that is alone is faster on all threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import Any

import triton_python_backend_utils as pb_utils

SHORTEST_ROUND_TRIP_S = 0.0001
"""A client that sends one request at a time does not send the next so soon; a queued request comes after 0.02 ms."""

Job = Callable[[bool], list[Any]]
"""Computes the outputs of one row. Its argument: whether the row is alone, so that it may use all threads."""


class RowPool:
    """The threads that run rows. While all are busy, `submit` waits, so that requests wait in Triton's queue."""

    def __init__(self, threads: int) -> None:
        self._pool, self._responses = ThreadPoolExecutor(threads, "rows"), ThreadPoolExecutor(1, "responses")
        self._slots, self._count, self._running = BoundedSemaphore(2 * threads), Lock(), 0
        self._alone_until = 0.0

    def submit(self, request: Any, jobs: Sequence[Job], response: Callable[[list[Any]], Any]) -> None:
        """Run the rows of a request, then send its response.

        response: makes it from the outputs of the rows; a row that failed has its exception instead. If it raises, the
            request gets the exception as its error.
        """
        sender, left = request.get_response_sender(), [len(jobs)]
        results: list[Any] = [None] * len(jobs)

        def respond() -> None:
            try:
                answer = response(results)
            except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
                answer = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))
            sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        def run(number: int, job: Job, alone: bool) -> None:
            try:
                results[number] = job(alone)
            except Exception as error:  # noqa: BLE001 - Triton needs a response for each request
                results[number] = error
            with self._count:
                left[0] -= 1
                is_last = left[0] == 0
                self._running -= 1
            self._slots.release()
            if is_last and alone:
                respond()
            elif is_last:  # sending waits for Triton; meanwhile this thread runs the next row
                self._responses.submit(respond)

        if not jobs:
            respond()
        for number, job in enumerate(jobs):
            self._slots.acquire()
            with self._count:
                alone = self._running == 0 and len(jobs) == 1
                self._running += 1
            # A request that waited while the last one was alone: from now on two share the cores.
            if alone and time.perf_counter() - self._alone_until > SHORTEST_ROUND_TRIP_S:
                run(number, job, True)  # handing it to a thread would cost half a millisecond
                self._alone_until = time.perf_counter()
            else:
                self._pool.submit(run, number, job, False)

    def close(self) -> None:
        """Wait for the responses, and stop the threads."""
        self._pool.shutdown()
        self._responses.shutdown()
