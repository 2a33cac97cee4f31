"""What does not survive a fork: threads, locks that they hold, and gRPC's connections.

A child of `fork` that uses them waits for ever, past every deadline. Each is refused there by name.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

from model.errors import InputError

_REMEDY = 'choose the start method "spawn" or "forkserver" for processes'


class OwnProcess:
    """The process that opened something, and the only one that may use it."""

    def __init__(self, name: str) -> None:
        """name: what was opened, for the error."""
        self._name = name
        self._pid = os.getpid()

    def is_current(self) -> bool:
        """Whether this is the process that opened it."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Refuse to work in a forked process. Raises InputError."""
        if not self.is_current():
            raise InputError(
                f"{self._name} was opened in another process (pid {self._pid}), and connections and threads do not "
                f"survive a fork. Open it in the process that uses it, or {_REMEDY}"
            )


class GrpcChannels:
    """The open gRPC channels of this process, and whether it was forked from one that had any."""

    def __init__(self) -> None:
        self._open: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()
        self._inherited = False
        os.register_at_fork(after_in_child=self._forked)

    def add(self, channel: Any) -> None:
        """Track an open channel until it is removed or garbage-collected."""
        with self._lock:
            self._open.add(channel)

    def remove(self, channel: Any) -> None:
        """Forget a channel that was closed."""
        with self._lock:
            self._open.discard(channel)

    def check(self, url: str) -> None:
        """Refuse a new channel where gRPC would wait for ever. Raises InputError."""
        if self._inherited:
            raise InputError(
                f"{url}: gRPC does not work in this process, which was forked while gRPC was open in its parent. Open "
                f"the first client after the fork, give Triton's http:// address, or {_REMEDY}"
            )

    def _forked(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it
        self._inherited = self._inherited or bool(self._open)


GRPC_CHANNELS = GrpcChannels()
