"""A TCP proxy on this machine that can cut or stall its connections, to simulate a failing network or server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

_CHUNK = 1 << 16


class TcpProxy:
    """Forwards connections to a port of this machine; `cut` breaks them, `hold` stalls them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open = set[socket.socket]()
        self._is_open = True
        self._flows = Event()
        self._flows.set()

    def hold(self) -> None:
        """Forward nothing until `release`; connections stay open."""
        self._flows.clear()

    def release(self) -> None:
        """Forward what was held."""
        self._flows.set()

    def cut(self) -> None:
        """Break all connections and refuse new ones until `mend`."""
        self._is_open = False
        self.release()
        for connection in list(self._open):
            _shut_down(connection)

    def mend(self) -> None:
        """Forward connections again."""
        self._is_open = True

    def accept_all(self) -> None:
        """Accept connections until `close`; run this in a thread."""
        with suppress(OSError), self._listening:
            while True:
                Thread(target=self._connect, args=self._listening.accept()[:1], daemon=True).start()

    def close(self) -> None:
        """Close all connections and the socket."""
        self.cut()
        _shut_down(self._listening)

    def _connect(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target), timeout=5) as server:
            server.settimeout(None)
            pair = {client, server}
            self._open |= pair
            if self._is_open:  # read after the pair was added: `cut` finds the pair, or its decision is seen here
                answers = Thread(target=self._forward, args=(server, client), daemon=True)
                answers.start()
                self._forward(client, server)
                answers.join()
            self._open -= pair

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        """Copy until one of the two ends, and end the other."""
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flows.wait()
                sink.sendall(data)
        _shut_down(source)
        _shut_down(sink)


@contextmanager
def open_proxy(port: int) -> Iterator[TcpProxy]:
    """Start a proxy to a port of this machine; the port need not be open yet."""
    proxy = TcpProxy(port)
    thread = Thread(target=proxy.accept_all, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)


@contextmanager
def stalling(proxy: TcpProxy, seconds: float, every_s: float) -> Iterator[None]:
    """Let a proxy forward nothing for `seconds`, again and again, as a server that stalls would answer nothing."""
    ended = Event()

    def stall() -> None:
        while not ended.wait(every_s - seconds):
            proxy.hold()
            ended.wait(seconds)
            proxy.release()

    thread = Thread(target=stall)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _shut_down(connection: socket.socket) -> None:
    """Wake who waits in `accept` or `recv`; `close` alone does not."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
