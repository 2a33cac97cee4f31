"""tritonclient's HTTP clients, each in a thread of its own, for requests of any thread.

Such a client belongs to the thread that made it, and so does gevent's loop, with three descriptors that nobody gives
back when the thread ends (gevent.hub.Hub.destroy). So they are as many as requests were ever under way at once, and not
as many as threads that ever asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


class HttpClientPool:
    """Safe to use from several threads."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        """make: a client, to be used in the thread that calls it."""
        self._make_client = make_client
        self._lock = threading.Lock()
        self._idle: list[_ClientThread] = []
        self._open = True

    def call(self, request: Callable[[Any], _Answer]) -> _Answer:
        """What `request` gives, called with a client. Raises what it raises, and what making a client raises."""
        answer: Future[_Answer] = Future()
        with self._lock:
            thread = self._idle.pop() if self._idle else _ClientThread(self._make_client)

        def task() -> None:
            try:
                answer.set_result(request(thread.client()))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
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
        """Close the clients; those that are at work end with their request."""
        with self._lock:
            idle, self._idle, self._open = self._idle, [], False
        for thread in idle:
            thread.tasks.put(None)
        for thread in idle:
            thread.join()


class _ClientThread(threading.Thread):
    """Does what is put into `tasks`, until that is None."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        super().__init__(name="http", daemon=True)
        self._make_client = make_client
        self._client: Any = None
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def client(self) -> Any:
        """This thread's, for its tasks alone."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def run(self) -> None:
        """Work, and leave nothing behind."""
        import gevent  # type: ignore[import-untyped]

        while (task := self.tasks.get()) is not None:
            task()
        if self._client is not None:
            self._client.close()
        gevent.get_hub().destroy(destroy_loop=True)
