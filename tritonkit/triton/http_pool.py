"""A pool of tritonclient HTTP clients, each in its own thread, that serves requests from any thread.

A client can only be used in the thread that created it. The same holds for its gevent loop, which leaks three file
descriptors when the thread ends without `gevent.hub.Hub.destroy`. With the pool, their number follows the most requests
that ran at the same time, not the number of calling threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


class HttpClientPool:
    """Runs requests on idle HTTP clients. Thread-safe."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        """make_client: creates a client for the thread that calls it."""
        self._make_client = make_client
        self._lock = threading.Lock()
        self._idle: list[_ClientThread] = []
        self._open = True

    def call(self, request: Callable[[Any], _Answer]) -> _Answer:
        """Call `request` with a client and return its result. Raises the errors of `request` and of `make_client`."""
        answer: Future[_Answer] = Future()
        with self._lock:
            thread = self._idle.pop() if self._idle else _ClientThread(self._make_client)

        def task() -> None:
            try:
                answer.set_result(request(thread.client()))
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                answer.set_exception(error)

        thread.tasks.put(task)
        try:
            return answer.result()
        finally:
            with self._lock:
                reusable = self._open and answer.done()
                if reusable:
                    self._idle.append(thread)
            if not reusable:
                thread.tasks.put(None)

    def close(self) -> None:
        """Close the idle clients; a busy client closes after its request."""
        with self._lock:
            idle, self._idle, self._open = self._idle, [], False
        for thread in idle:
            thread.tasks.put(None)
        for thread in idle:
            thread.join()


class _ClientThread(threading.Thread):
    """Thread with one HTTP client that runs the functions in `tasks` until it gets None."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        super().__init__(name="http", daemon=True)
        self._make_client = make_client
        self._client: Any = None
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def client(self) -> Any:
        """Return this thread's client, created on first use. Call it from a task only."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def run(self) -> None:
        """Run tasks, then close the client and destroy the gevent loop."""
        import gevent  # type: ignore[import-untyped]

        while (task := self.tasks.get()) is not None:
            task()
        if self._client is not None:
            self._client.close()
        gevent.get_hub().destroy(destroy_loop=True)
