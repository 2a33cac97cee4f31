"""What does not survive a fork: threads, locks that they hold, and gRPC's connections.

A child of `fork` that uses them waits for ever, past every deadline. Each is refused there by name.
"""

from __future__ import annotations

import os

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

    def check_current(self) -> None:
        """Refuse to work in a forked process. Raises InputError."""
        if not self.is_current():
            raise InputError(
                f"{self._name} was opened in another process (pid {self._pid}), and connections and threads do not "
                f"survive a fork. Open it in the process that uses it, or {_REMEDY}"
            )


class GrpcUse:
    """Whether gRPC was used in this process, or in one that it was forked from.

    Its threads and locks stay after the last channel is closed, so a fork does not get rid of them.
    """

    def __init__(self) -> None:
        self._used = self._inherited = False
        os.register_at_fork(after_in_child=self._forked)

    def begin(self, url: str) -> None:
        """Note that a channel is opened. Raises InputError where gRPC would wait for ever."""
        if self._inherited:
            raise InputError(
                f"{url}: gRPC does not work in this process, which was forked after gRPC was used in its parent. Open "
                f"the first client after the fork, give Triton's http:// address, or {_REMEDY}"
            )
        self._used = True

    def _forked(self) -> None:
        self._inherited = self._used


GRPC = GrpcUse()
