"""Guards against use after a fork: threads, their locks and gRPC's connections do not survive it.

A forked child process that uses them would wait forever, past every timeout. The guards raise an error instead.
"""

from __future__ import annotations

import os

from tritonkit.errors import InputError

_REMEDY = 'use the start method "spawn" or "forkserver" for processes'


class ProcessGuard:
    """Refuses the use of a resource in another process than the one that opened it."""

    def __init__(self, name: str) -> None:
        """name: the resource, for the error message."""
        self._name = name
        self._pid = os.getpid()

    def is_current(self) -> bool:
        """Whether this process opened the resource."""
        return os.getpid() == self._pid

    def check_current(self) -> None:
        """Raise InputError in a forked process."""
        if not self.is_current():
            raise InputError(
                f"{self._name} was opened in another process (pid {self._pid}), and connections and threads do not "
                f"survive a fork. Open it in the process that uses it, or {_REMEDY}",
                code="process.forked",
            )


class GrpcForkGuard:
    """Records whether gRPC was used in this process, or in a parent process before a fork.

    gRPC's threads and locks exist even after its last channel is closed, so closing it before a fork is not enough.
    """

    def __init__(self) -> None:
        self._used = self._inherited = False
        os.register_at_fork(after_in_child=self._forked)

    def begin(self, url: str) -> None:
        """Record that a channel is opened. Raises InputError if gRPC would wait forever."""
        if self._inherited:
            raise InputError(
                f"{url}: gRPC does not work in this process, which was forked after gRPC was used in its parent. Open "
                f"the first client after the fork, use Triton's http:// address, or {_REMEDY}",
                code="process.grpc_fork",
            )
        self._used = True

    def _forked(self) -> None:
        self._inherited = self._used


GRPC = GrpcForkGuard()
