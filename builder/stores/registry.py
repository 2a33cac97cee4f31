"""A client of an OCI registry: that of oras, with files sent piece by piece, and with errors of tritonkit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import oras.auth
import oras.container
import oras.provider
import oras.utils
import requests
import urllib3

from builder.stores.base import CHUNK, Advance, Result, append, repeat
from tritonkit.errors import InputError, TokenError

_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3})(:\d+)?")
_TIMEOUT_S = (10, 120)
_FAILURES = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)


class AbsentError(Exception):
    """The registry has no such repository, tag or blob."""


class Registry(oras.provider.Registry):  # type: ignore[misc]
    """A registry: by HTTP on this machine, else by HTTPS, as container engines do.

    The credentials are those of `docker login`, in `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    """

    auth: Any
    advance: Advance = staticmethod(lambda size: None)
    """Called with the numbers of bytes that were sent."""

    def __init__(self, host: str) -> None:
        self._was_asked = False
        super().__init__(host, insecure=_LOOPBACK.fullmatch(host) is not None)
        self.session.request = partial(self.session.request, timeout=_TIMEOUT_S)
        own = Path(os.environ.get("DOCKER_CONFIG", "")) / "config.json"
        self.auth.load_configs(oras.container.Container(f"{host}/any"), [str(own)] if own.is_file() else None)

    def repeat(self, action: Callable[[], Result]) -> Result:
        """Repeat an action while the registry fails. Raises ExternalError."""
        return repeat(action, f"oci://{self.hostname}", _FAILURES)

    def do_request(self, url: str, method: str = "GET", *arguments: Any, **options: Any) -> requests.Response:
        """Send a request once, with credentials. Raises InputError, AbsentError, or what `repeat` repeats."""
        if not self._was_asked:
            self._use_basic_auth(self.session.get(f"{self.prefix}://{self.hostname}/v2/"))
        try:
            response: requests.Response = super().do_request.__wrapped__(self, url, method, *arguments, **options)
            if response.status_code == 401:  # the token of an earlier request does not allow this one
                self.auth.token = None
                response = super().do_request.__wrapped__(self, url, method, *arguments, **options)
        except ValueError as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise self._token_error("asks for credentials") from error
        status = response.status_code
        if status in (401, 403):
            raise self._token_error(f"refuses the credentials (HTTP {status})")
        if status == 404 and method == "GET":
            raise AbsentError(url)
        if status >= 500 or status == 429:
            response.raise_for_status()
        if status >= 400 and status not in (404, 416):
            raise InputError(f"oci://{self.hostname}: HTTP {status}: {response.text:.300}", code="store.refused")
        return response

    def _use_basic_auth(self, answer: requests.Response) -> None:
        """Send user and password with each request, if the registry asks for them and not for a token."""
        self._was_asked = True
        if answer.headers.get("Www-Authenticate", "").lower().startswith("basic"):
            basic = oras.auth.get_auth_backend("basic", self.session, self.prefix == "http")
            basic._basic_auth = getattr(self.auth, "_basic_auth", "")
            self.auth = basic

    def put_upload(self, blob: str, container: oras.container.Container, layer: dict[str, Any]) -> requests.Response:
        """Send a blob in one request, without reading all of it into memory."""
        session = self.do_request(f"{self.prefix}://{container.upload_blob_url()}", "POST")
        url = oras.utils.append_url_params(self._get_location(session, container), {"digest": layer["digest"]})
        return self.do_request(url, "PUT", _Blob(blob, self.advance), {"Content-Type": "application/octet-stream"})

    def read_blob(self, image: str, digest: str, size: int, path: Path, advance: Advance) -> None:
        """Append to a file what it lacks of a blob."""
        url = f"{self.prefix}://{self.get_container(image).get_blob_url(digest)}"
        with path.open("ab") as file:
            headers = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
            with self.do_request(url, headers=headers, stream=True) as response:
                if response.status_code == 200:  # the registry ignores ranges
                    file.truncate(0)
                if response.status_code != 416:  # no byte is missing
                    append(file, response.iter_content(CHUNK), size, advance)

    def _token_error(self, reason: str) -> TokenError:
        login = f"docker login {self.hostname}"
        return TokenError(f"oci://{self.hostname}: the registry {reason}; run: {login}", code="store.token")


class _Blob:
    """The content of a file, piece by piece; a request that is repeated with credentials reads it from the start."""

    def __init__(self, path: str, advance: Advance) -> None:
        self._path, self._advance = Path(path), advance

    def __len__(self) -> int:
        return self._path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
                self._advance(len(chunk))
