"""Web servers on this machine that tests answer for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TypeVar

Site = TypeVar("Site", bound=ThreadingHTTPServer)
ANY_PORT = ("127.0.0.1", 0)


class Quiet:
    """A handler of requests that prints none of them."""

    def log_message(self, *of_request: object) -> None:
        """Say nothing."""


@contextmanager
def listening(site: Site) -> Iterator[Site]:
    """Answer requests in a thread while the block runs."""
    with site:
        thread = threading.Thread(target=site.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
