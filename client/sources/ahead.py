"""Fetch what lies elsewhere before a thread that decodes has to wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TypeAlias

from client.picture import Picture
from client.sources.content import Fetch, SpillBuffer
from model.preprocess import ImageError

FETCHING = 16
"""Pictures fetched at once."""

_Bytes: TypeAlias = Callable[[], bytes]


def fetched_ahead(pictures: Iterable[Picture], at_once: int = FETCHING) -> Iterator[Picture]:
    """The same pictures; those from elsewhere are being fetched from when they are taken, as far ahead as one takes.

    A fetched content is kept until the picture is forgotten, and not fetched twice. When this generator is closed
    before its end, nobody waits for what has not come.
    """
    fetchers = _Fetchers(at_once)
    taken_all = False
    try:
        for picture in pictures:
            if isinstance(picture.content, Fetch):
                yield replace(picture, content=fetchers.fetch(picture.content))
            else:
                yield picture
        taken_all = True
    finally:
        fetchers.end(drop=not taken_all)


@dataclass(frozen=True, slots=True)
class _PendingRow:
    content: Future[_Bytes]

    def __call__(self) -> bytes:
        """Waits for it. Raises ImageError, and ExternalError when it could not be held."""
        return self.content.result()()


class _Fetchers:
    """Daemon threads: a host that never answers must not keep the process from ending, as an executor's would."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._threads = 0
        self._asked: SimpleQueue[tuple[Fetch, Future[_Bytes]] | None] = SimpleQueue()
        self._coming: set[Future[_Bytes]] = set()
        self._holder = SpillBuffer()

    def fetch(self, content: Fetch) -> _PendingRow:
        """Content that is being fetched, or waits to be."""
        coming: Future[_Bytes] = Future()
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)
        self._asked.put((content, coming))
        if self._threads < self._at_once:
            self._threads += 1
            threading.Thread(target=self._work, name="fetch", daemon=True).start()
        return _PendingRow(coming)

    def end(self, *, drop: bool) -> None:
        """Nothing more is asked for. drop: what has not come is given up."""
        for coming in list(self._coming) if drop else ():
            with suppress(InvalidStateError):
                coming.set_exception(ImageError("was not fetched: the job has ended"))
        for _ in range(self._threads):
            self._asked.put(None)

    def _work(self) -> None:
        while asked := self._asked.get():
            content, coming = asked
            if coming.done():
                continue
            try:
                held = self._holder.hold(content())
            except Exception as error:  # noqa: BLE001 - whoever waits for it is told
                with suppress(InvalidStateError):
                    coming.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    coming.set_result(held)
