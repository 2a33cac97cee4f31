"""Fetch with HTTP: bounded in size and time, and tried again where that may help."""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import SplitResult, unquote

from client.sources.naming import split
from model.errors import first_line
from model.preprocess import MAX_BYTES, ImageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

Whole = TypeVar("Whole")

_CHUNK = 2**16
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be another one in a moment (RFC 9110, 6585 and 8470)."""
_CONNECTIONS = 32
"""Kept open to one host, as many as pictures are fetched at once."""


@dataclass(frozen=True)
class Patience:
    """How long one waits for what lies elsewhere."""

    attempts: int = 4
    pause_s: float = 0.5
    """Before the second attempt; twice as long before each further one, shortened by chance by up to a half."""
    longest_pause_s: float = 30.0
    """Also where a host asks for more with Retry-After."""
    connect_s: float = 10.0
    read_s: float = 20.0
    """Without a single byte."""
    picture_s: float = 120.0
    """For one picture with all attempts at it, however it drips."""
    file_s: float = 6 * 3600.0
    """The same for an archive or a video."""
    redirects: int = 5

    def pause(self, attempt: int, asked_s: float = 0.0) -> float:
        """Seconds to wait after the attempt of this number, counted from 1."""
        own = self.pause_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return min(max(own, asked_s), self.longest_pause_s)


class _TryAgainError(Exception):
    def __init__(self, reason: str, asked_s: float = 0.0) -> None:
        super().__init__(reason)
        self.asked_s = asked_s


def fetch(address: str, patience: Patience) -> bytes:
    """The content at an address. Raises ImageError, which tells nothing secret of the address."""
    until = time.monotonic() + patience.picture_s

    def once() -> bytes:
        return b"".join(_in_time(_pieces(address, patience, MAX_BYTES), until, patience.picture_s))

    return _tried(once, patience, until)


def fetch_into(address: str, file: BinaryIO, patience: Patience) -> None:
    """Write the content at an address to a temporary file, as much as there is room for.

    Raises ImageError, and OSError for the file.
    """
    until = time.monotonic() + patience.file_s

    def once() -> None:
        file.seek(0)
        file.truncate()
        room = shutil.disk_usage(tempfile.gettempdir()).free
        for piece in _in_time(_pieces(address, patience, room), until, patience.file_s):
            file.write(piece)

    _tried(once, patience, until)


def _in_time(pieces: Iterator[bytes], until: float, most_s: float) -> Iterator[bytes]:
    for piece in pieces:
        if time.monotonic() > until:
            raise ImageError(f"has not come whole in {most_s:g} s")
        yield piece


def _tried(once: Callable[[], Whole], patience: Patience, until: float) -> Whole:
    attempt = 1
    while True:
        try:
            return once()
        except _TryAgainError as error:
            pause_s = patience.pause(attempt, error.asked_s)
            if attempt == patience.attempts or time.monotonic() + pause_s > until:
                times = "once" if attempt == 1 else f"{attempt} times"
                raise ImageError(f"cannot be fetched: {error}; tried {times}") from error
            time.sleep(pause_s)
            attempt += 1


def _pieces(address: str, patience: Patience, most: int) -> Iterator[bytes]:
    """One attempt at up to `most` bytes. Raises ImageError, and _TryAgainError where another may do better."""
    import urllib3

    try:
        response = _request(address, patience)
        try:
            _check_status(response)
            told, came = response.headers.get("Content-Length", ""), 0
            size = int(told) if told.isdecimal() else 0
            while max(size, came) <= most:
                if not (piece := response.read1(_CHUNK)):
                    return
                yield piece
                came += len(piece)
            raise ImageError(f"has {max(size, came):,} bytes or more; at most {most:,} are read")
        finally:
            response.close()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise _translated(error, patience) from error


def _request(address: str, patience: Patience) -> BaseHTTPResponse:
    from urllib3 import Retry, Timeout

    parts = split(address)
    headers = {"User-Agent": "tritonkit", **_login(parts)}
    return _manager(_proxy_of(parts)).request(
        "GET",
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        headers=headers,
        preload_content=False,
        timeout=Timeout(connect=patience.connect_s, read=patience.read_s),
        # Errors as they are: which are worth another attempt is decided here.
        retries=Retry(total=None, connect=False, read=False, other=False, status=0, redirect=patience.redirects),
    )


@functools.cache
def _manager(proxy: str | None) -> PoolManager:
    from urllib3 import PoolManager, ProxyManager

    if proxy is None:
        return PoolManager(maxsize=_CONNECTIONS)
    return ProxyManager(proxy, maxsize=_CONNECTIONS)


def _proxy_of(parts: SplitResult) -> str | None:
    """What the environment says: http_proxy, https_proxy, no_proxy; a proxy without a scheme speaks HTTP."""
    from urllib.request import getproxies, proxy_bypass

    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _login(parts: SplitResult) -> dict[str, str]:
    from urllib3.util import make_headers

    if parts.username is None:
        return {}
    return dict(make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"))


def _check_status(response: BaseHTTPResponse) -> None:
    if response.status == 200:
        return
    said = f"the host answers {response.status} {response.reason or ''}".rstrip()
    if response.status in _AGAIN:
        after = response.headers.get("Retry-After", "")
        raise _TryAgainError(said, float(after) if after.isdecimal() else 0.0)
    raise ImageError(f"cannot be fetched: {said}")


def _translated(error: Exception, patience: Patience) -> Exception:
    from urllib3 import exceptions

    match error:
        case exceptions.NameResolutionError():
            return _TryAgainError("the host's name is unknown here")
        case exceptions.ReadTimeoutError():
            return _TryAgainError(f"nothing came in {patience.read_s:g} s")
        case exceptions.NewConnectionError() | exceptions.ProxyError():
            return _TryAgainError(f"no connection ({_reason(error)})")
        case exceptions.ConnectTimeoutError():
            return _TryAgainError(f"no connection in {patience.connect_s:g} s")
        case exceptions.SSLError():
            return ImageError(f"cannot be fetched: no safe connection ({first_line(error)})")
        case exceptions.MaxRetryError() if error.reason and not isinstance(error.reason, exceptions.ResponseError):
            return _translated(error.reason, patience)
        case exceptions.MaxRetryError():
            return ImageError(f"cannot be fetched: it leads on to other addresses more than {patience.redirects} times")
        case exceptions.ProtocolError():
            return _TryAgainError("the connection broke off")
    return ImageError("cannot be fetched: this is no address of the form https://HOST/PATH")


def _reason(error: BaseException) -> str:
    """What the operating system said, of which the text of an error tells no more."""
    while not (isinstance(error, OSError) and error.strerror) and (cause := error.__cause__ or error.__context__):
        error = cause
    return error.strerror if isinstance(error, OSError) and error.strerror else "refused"
