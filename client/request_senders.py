"""Threads that send requests, up to the concurrency limit; the request that is ready first goes first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from client.concurrency import MAX_CONCURRENCY, AdaptiveConcurrency

Response = TypeVar("Response")


@dataclass
class _Request(Generic[Response]):
    send: Callable[[], Response]
    images: int
    pending_inputs: int
    """Number of inputs that must be done before the request can be sent."""
    response: Future[Response] = field(default_factory=Future)


class Senders:
    """A context. On exit it waits for requests in flight and sends no others."""

    def __init__(self, in_flight: AdaptiveConcurrency) -> None:
        self._in_flight = in_flight
        self._pool = ThreadPoolExecutor(max(MAX_CONCURRENCY, in_flight.limit), "send")
        self._lock = threading.Lock()
        self._ready: deque[_Request[Any]] = deque()
        self._active = 0
        self._open = True

    def submit_after(
        self, inputs: Sequence[Future[Any]], images: int, send: Callable[[], Response]
    ) -> Future[Response]:
        """Call `send` in a thread once all `inputs` are done and the limit allows it. images: their number in it."""
        request = _Request(send, images, len(inputs))

        def on_input_done(_: Future[Any]) -> None:
            with self._lock:
                request.pending_inputs -= 1
                if not request.pending_inputs:
                    self._ready.append(request)
                    self._start_ready()

        for future in inputs:
            future.add_done_callback(on_input_done)
        return request.response

    def _start_ready(self) -> None:
        """Send ready requests up to the limit. The caller holds the lock."""
        while self._open and self._ready and self._active < self._in_flight.limit:
            self._active += 1
            self._pool.submit(self._send, self._ready.popleft())

    def _send(self, request: _Request[Any]) -> None:
        try:
            response = request.send()
        except BaseException as error:  # noqa: BLE001 - the future passes it on
            self._finish_request(0)
            request.response.set_exception(error)
        else:
            self._finish_request(request.images)
            request.response.set_result(response)

    def _finish_request(self, images: int) -> None:
        with self._lock:
            if images:
                self._in_flight.record_answer(images, is_limited=bool(self._ready))
            self._active -= 1
            self._start_ready()

    def stop(self) -> None:
        """Send no more requests."""
        with self._lock:
            self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
