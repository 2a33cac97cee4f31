"""Threads that send requests, as many at once as the pace allows, the first ready first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from client.pace import MOST, AdaptiveConcurrency

Answer = TypeVar("Answer")


@dataclass
class _Request(Generic[Answer]):
    send: Callable[[], Answer]
    images: int
    left: int
    """What must be done before it can be sent."""
    answer: Future[Answer] = field(default_factory=Future)


class Senders:
    """A context; leaving it waits for the requests that are under way, and sends no other."""

    def __init__(self, in_flight: AdaptiveConcurrency) -> None:
        self._in_flight = in_flight
        self._pool = ThreadPoolExecutor(max(MOST, in_flight.limit), "send")
        self._lock = threading.Lock()
        self._ready: deque[_Request[Any]] = deque()
        self._active = 0
        self._open = True

    def after(self, before: Sequence[Future[Any]], images: int, send: Callable[[], Answer]) -> Future[Answer]:
        """Call `send`, a request with so many images, in a thread when all of `before` are done and it is its turn."""
        request = _Request(send, images, len(before))

        def one_done(_: Future[Any]) -> None:
            with self._lock:
                request.left -= 1
                if not request.left:
                    self._ready.append(request)
                    self._start()

        for future in before:
            future.add_done_callback(one_done)
        return request.answer

    def _start(self) -> None:
        """Send what is ready and may go. The lock is held."""
        while self._open and self._ready and self._active < self._in_flight.limit:
            self._active += 1
            self._pool.submit(self._send, self._ready.popleft())

    def _send(self, request: _Request[Any]) -> None:
        try:
            answer = request.send()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer is told
            self._ended(0)
            request.answer.set_exception(error)
        else:
            self._ended(request.images)
            request.answer.set_result(answer)

    def _ended(self, images: int) -> None:
        with self._lock:
            if images:
                self._in_flight.answered(images, waiting=bool(self._ready))
            self._active -= 1
            self._start()

    def stop(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
