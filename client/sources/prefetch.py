"""Download remote images before a decoding thread needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TypeAlias

from client.picture import Picture
from client.sources.content import Fetch, SpillBuffer
from tritonkit.images.preprocess import ImageError

MAX_FETCHES = 16
"""Concurrent downloads."""

_Bytes: TypeAlias = Callable[[], bytes]


def prefetch_content(pictures: Iterable[Picture], max_fetches: int = MAX_FETCHES) -> Iterator[Picture]:
    """Yield the same pictures; the download of a remote picture starts when it is taken from this generator.

    Downloaded content is kept until its picture is deleted, and is not downloaded twice. If this generator is closed
    early, waiting threads get an ImageError.
    """
    fetchers = _Fetchers(max_fetches)
    is_exhausted = False
    try:
        for picture in pictures:
            if isinstance(picture.content, Fetch):
                yield replace(picture, content=fetchers.fetch(picture.content))
            else:
                yield picture
        is_exhausted = True
    finally:
        fetchers.finish(cancel_pending=not is_exhausted)


class _Fetchers:
    """Daemon threads, so that a host that never answers does not keep the process alive, as an executor would."""

    def __init__(self, max_fetches: int) -> None:
        self._max_fetches = max_fetches
        self._threads = 0
        self._queue: SimpleQueue[tuple[Fetch, Future[_Bytes]] | None] = SimpleQueue()
        self._pending: set[Future[_Bytes]] = set()
        self._buffer = SpillBuffer()

    def fetch(self, content: Fetch) -> _Bytes:
        """Queue a download. The content waits for it, and raises ImageError, or ExternalError if it was not stored."""
        future: Future[_Bytes] = Future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        self._queue.put((content, future))
        if self._threads < self._max_fetches:
            self._threads += 1
            threading.Thread(target=self._fetch_queued, name="fetch", daemon=True).start()
        return lambda: future.result()()

    def finish(self, *, cancel_pending: bool) -> None:
        """Stop after the queue is empty. cancel_pending: fail all pending downloads."""
        for future in list(self._pending) if cancel_pending else ():
            with suppress(InvalidStateError):
                future.set_exception(ImageError("was not downloaded, because the job ended"))
        for _ in range(self._threads):
            self._queue.put(None)

    def _fetch_queued(self) -> None:
        while job := self._queue.get():
            content, future = job
            if future.done():
                continue
            try:
                stored_content = self._buffer.store(content())
            except Exception as error:  # noqa: BLE001 - the future passes it on
                with suppress(InvalidStateError):
                    future.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    future.set_result(stored_content)
