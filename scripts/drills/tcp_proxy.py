"""A TCP proxy on this machine that can cut its connections, to simulate a network failure."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 1 << 16


class TcpProxy:
    """Forwards connections to a port of this machine; `cut` breaks them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open = set[socket.socket]()
        self._lock = threading.Lock()
        self._is_open = True

    def cut(self) -> None:
        """Break all connections and refuse new ones until `mend`."""
        with self._lock:
            self._is_open = False
            open_sockets, self._open = self._open, set()
        for connection in open_sockets:
            _close(connection)

    def mend(self) -> None:
        """Forward connections again."""
        self._is_open = True

    def accept_all(self) -> None:
        """Accept connections until the socket is closed; run this in a thread."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Close all connections and the socket."""
        self.cut()
        _close(self._listening)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            server.settimeout(None)
        except OSError:
            _close(client)
            return
        with self._lock:
            is_open = self._is_open
            if is_open:
                self._open |= {client, server}
        if not is_open:
            _close(client)
            _close(server)
            return
        threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
        self._forward(client, server)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        for connection in (source, sink):
            with self._lock:
                self._open.discard(connection)
            _close(connection)


@contextlib.contextmanager
def open_proxy(port: int) -> Iterator[TcpProxy]:
    """Start a proxy to a port of this machine; the port need not be open yet."""
    proxy = TcpProxy(port)
    thread = threading.Thread(target=proxy.accept_all, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept or recv; close alone does not
    connection.close()
