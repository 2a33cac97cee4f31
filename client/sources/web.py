"""Download by HTTP, with limits for size and time, and with retries."""

from __future__ import annotations

import functools
import io
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from tritonkit.errors import first_line
from tritonkit.images.preprocess import MAX_BYTES, ImageError
from tritonkit.remotes.addresses import split_address

if TYPE_CHECKING:
    from urllib3 import PoolManager

_CHUNK = 2**16
_RETRYABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}
"""Temporary errors (RFC 9110, 6585 and 8470)."""
_CONNECTIONS = 32
"""Open connections to one host; enough for all concurrent downloads."""


@dataclass(frozen=True)
class FetchPolicy:
    """Timeouts and retries of downloads."""

    attempts: int = 4
    pause_s: float = 0.5
    """Pause before the second attempt. It doubles with each attempt, and is shortened at random by up to a half."""
    longest_pause_s: float = 30.0
    """Upper limit, also if a host asks for a longer pause with Retry-After."""
    connect_s: float = 10.0
    read_s: float = 20.0
    """Timeout without any received byte."""
    picture_s: float = 120.0
    """Timeout for one image with all attempts."""
    file_s: float = 6 * 3600.0
    """Timeout for an archive or a video with all attempts."""
    redirects: int = 5


class _RetryableError(Exception):
    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def fetch(address: str, policy: FetchPolicy) -> bytes:
    """Download an address. Raises ImageError, whose message contains no secret of the address."""
    content = io.BytesIO()
    _download(address, content, policy, MAX_BYTES, policy.picture_s)
    return content.getvalue()


def fetch_into(address: str, file: BinaryIO, policy: FetchPolicy) -> None:
    """Download an address to an empty temporary file, up to the free disk space.

    Raises ImageError, and OSError for the file.
    """
    _download(address, file, policy, shutil.disk_usage(tempfile.gettempdir()).free, policy.file_s)


def _download(address: str, file: BinaryIO, policy: FetchPolicy, max_bytes: int, limit_s: float) -> None:
    """Download in several attempts within `limit_s`: also a broken body is retried, which urllib3 does not do."""
    deadline_s = time.monotonic() + limit_s
    for attempt in itertools.count(1):
        file.seek(0)
        file.truncate()
        try:
            for chunk in _read_chunks(address, policy, max_bytes):
                if time.monotonic() > deadline_s:
                    raise ImageError(f"the download took longer than {limit_s:g} s")
                file.write(chunk)
        except _RetryableError as error:
            backoff_s = policy.pause_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            pause_s = min(max(backoff_s, error.retry_after_s), policy.longest_pause_s)
            if attempt == policy.attempts or time.monotonic() + pause_s > deadline_s:
                times = "once" if attempt == 1 else f"{attempt} times"
                raise ImageError(f"cannot be downloaded: {error}; tried {times}") from error
            time.sleep(pause_s)
        else:
            return


def _read_chunks(address: str, policy: FetchPolicy, max_bytes: int) -> Iterator[bytes]:
    """Yield one attempt's chunks, up to `max_bytes`. Raises ImageError, and _RetryableError if a retry may help."""
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    try:
        parts = split_address(address)
        headers = {"User-Agent": "tritonkit"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers |= urllib3.make_headers(basic_auth=user)
        # The proxy of the environment: http_proxy, https_proxy, no_proxy; one without a scheme uses HTTP.
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        response = _connection_pool(proxy if not proxy or "://" in proxy else f"http://{proxy}").request(
            "GET",
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            headers=headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=policy.connect_s, read=policy.read_s),
            # Only redirects: `_download` retries, with one limit for the request and its body.
            retries=urllib3.Retry(
                total=None, connect=False, read=False, other=False, status=0, redirect=policy.redirects
            ),
        )
        try:
            if response.status != 200:
                message = f"the host answered {response.status} {response.reason or ''}".rstrip()
                if response.status not in _RETRYABLE_STATUSES:
                    raise ImageError(f"cannot be downloaded: {message}")
                retry_after = response.headers.get("Retry-After", "")
                raise _RetryableError(message, float(retry_after) if retry_after.isdecimal() else 0.0)
            content_length, received = response.headers.get("Content-Length", ""), 0
            size = int(content_length) if content_length.isdecimal() else 0
            while max(size, received) <= max_bytes:
                if not (chunk := response.read1(_CHUNK)):
                    return
                yield chunk
                received += len(chunk)
            raise ImageError(f"has {max(size, received):,} bytes or more; at most {max_bytes:,} are read")
        finally:
            response.close()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise _translated_error(error, policy) from error


@functools.cache
def _connection_pool(proxy: str | None) -> PoolManager:
    from urllib3 import PoolManager, ProxyManager

    return ProxyManager(proxy, maxsize=_CONNECTIONS) if proxy else PoolManager(maxsize=_CONNECTIONS)


def _translated_error(error: Exception, policy: FetchPolicy) -> Exception:
    from urllib3 import exceptions

    match error:
        case exceptions.NameResolutionError():
            return _RetryableError("the host name is unknown")
        case exceptions.ReadTimeoutError():
            return _RetryableError(f"no data was received for {policy.read_s:g} s")
        case exceptions.NewConnectionError() | exceptions.ProxyError():
            return _RetryableError(f"no connection ({_system_message(error)})")
        case exceptions.ConnectTimeoutError():
            return _RetryableError(f"no connection in {policy.connect_s:g} s")
        case exceptions.SSLError():
            return ImageError(f"cannot be downloaded: no secure connection ({first_line(error)})")
        case exceptions.MaxRetryError() if error.reason and not isinstance(error.reason, exceptions.ResponseError):
            return _translated_error(error.reason, policy)
        case exceptions.MaxRetryError():
            return ImageError(f"cannot be downloaded: more than {policy.redirects} redirects")
        case exceptions.ProtocolError():
            return _RetryableError("the connection broke")
    return ImageError("cannot be downloaded: expected an address of the form https://HOST/PATH")


def _system_message(error: BaseException) -> str:
    """Return the operating system's message, which is missing in the error's own text."""
    while not (isinstance(error, OSError) and error.strerror) and (cause := error.__cause__ or error.__context__):
        error = cause
    return error.strerror if isinstance(error, OSError) and error.strerror else "refused"
