"""A network that can be cut: a TCP proxy on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 1 << 16


class TcpProxy:
    """Passes connections on to a port of this machine, until it is cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open = set[socket.socket]()
        self._lock = threading.Lock()
        self._whole = True

    def cut(self) -> None:
        """Break all connections, and every new one, until it is mended."""
        with self._lock:
            self._whole = False
            broken, self._open = self._open, set()
        for one in broken:
            _close(one)

    def mend(self) -> None:
        """Let connections through again."""
        self._whole = True

    def accept_all(self) -> None:
        """Serve until the listening socket is closed; in a thread of its own."""
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def close(self) -> None:
        """Break everything, and listen no more."""
        self.cut()
        _close(self._listening)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            far.settimeout(None)
        except OSError:
            _close(near)
            return
        with self._lock:
            whole = self._whole
            if whole:
                self._open |= {near, far}
        if not whole:
            _close(near)
            _close(far)
            return
        threading.Thread(target=self._pass_on, args=(far, near), daemon=True).start()
        self._pass_on(near, far)

    def _pass_on(self, giving: socket.socket, taking: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := giving.recv(_CHUNK):
                taking.sendall(data)
        for one in (giving, taking):
            with self._lock:
                self._open.discard(one)
            _close(one)


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[TcpProxy]:
    """A proxy to a port of this machine, which need not be open yet."""
    proxy = TcpProxy(port)
    thread = threading.Thread(target=proxy.accept_all, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept or recv; close alone does not
    one.close()
