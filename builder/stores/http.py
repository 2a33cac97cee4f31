"""A store behind HTTP: `POST /upload_new_version/` takes a package, two GETs list the versions and send one.

`docs/stores.md` has the protocol on one page; `examples/model_store.py` is a server of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import urllib3

from builder.stores.base import CHUNK, Advance, PackageFile, Result, Store, StoredVersion, append, repeat, unconfirmed
from tritonkit.errors import ExternalError, InputError, TokenError, TritonkitError
from tritonkit.remotes.tokens import token_problem

TOKEN_VARIABLE = "TRITONKIT_STORE_TOKEN"  # noqa: S105 - its name
_PAUSE_S = 0.5
_TIMEOUT = urllib3.Timeout(connect=10, read=120)
_MAX_ANSWER = 2**24
"""Bytes of a JSON answer."""
_BUSY = (408, 425, 429)
_ADDRESS = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(:\d+)?(/[^\s?#]*)?", re.IGNORECASE)


class _TryAgainError(Exception):
    """The store is busy or does not work."""


class HttpStore(Store):
    """Packages on a web server; its token is in TRITONKIT_STORE_TOKEN."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        if not _ADDRESS.fullmatch(self.address):
            expected = f"expected http(s)://HOST[:PORT][/PATH], and its token in ${TOKEN_VARIABLE}"
            raise InputError(f"{self.public_name}: {expected}", code="store.address")
        token = os.environ.get(TOKEN_VARIABLE)
        if problem := token_problem(TOKEN_VARIABLE, token):
            raise TokenError(problem, code="store.token")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    def versions(self, name: str) -> list[str]:
        """Return `GET /models/NAME`; empty where the server has no such page."""
        return [stored.version for stored in self._versions(name)]

    def find(self, name: str, version: str) -> StoredVersion | None:
        """Return the entry of a version in the same answer."""
        return next((stored for stored in self._versions(name) if stored.version == version), None)

    def _versions(self, name: str) -> list[StoredVersion]:
        def read() -> Any:
            response = self._request("GET", f"models/{name}", (200, 404, 405))
            return self._json(response) if response.status == 200 else {"versions": []}

        answer = self._repeat(read)
        try:
            records = {str(entry["version"]): dict(entry) for entry in answer["versions"]}
        except (KeyError, TypeError, ValueError) as error:
            raise self._unexpected(answer) from error
        return [StoredVersion.read(name, version, record, self.public_name) for version, record in records.items()]

    def upload(self, package: PackageFile, advance: Advance) -> StoredVersion:
        """Send the form of `POST /upload_new_version/`, and compare the answer with the package."""
        answer = self._repeat(lambda: self._json(self._post(package, advance)))
        fields = answer if isinstance(answer, dict) else {}
        confirmed = (fields.get("model_name"), fields.get("model_version"), fields.get("sha256", package.sha256))
        if confirmed != (package.name, package.version, package.sha256):
            raise unconfirmed(self.public_name, package, f"it answered {answer!r:.200}")
        return StoredVersion(name=package.name, version=package.version, sha256=package.sha256, size=package.size)

    def download(self, stored: StoredVersion, path: Path, advance: Advance) -> None:
        """Read `GET /models/NAME/VERSION` from where the partial file ends."""

        def fetch() -> None:
            with path.open("ab") as file:
                headers = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
                response = self._request("GET", f"models/{stored.name}/{stored.version}", (200, 206, 416), headers)
                if response.status == 416:  # no byte is missing
                    return
                if response.status == 200:
                    file.truncate(0)
                append(file, response.stream(CHUNK, decode_content=False), stored.size, advance)

        advance(path.stat().st_size if path.exists() else 0)
        self._repeat(fetch)

    def _post(self, package: PackageFile, advance: Advance) -> Any:
        """Send the form; the fields come first, so that the server knows the version before the file."""
        boundary = uuid4().hex
        fields = {"model_name": package.name, "model_version": package.version, "sha256": package.sha256}
        part = f'--{boundary}\r\nContent-Disposition: form-data; name="'
        before = "".join(f'{part}{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
        before += f'{part}src_file"; filename="{package.name}.zip"\r\nContent-Type: application/zip\r\n\r\n'
        after = f"\r\n--{boundary}--\r\n"

        def body() -> Iterator[bytes]:
            yield before.encode()
            with package.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
                    advance(len(chunk))
            yield after.encode()

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(before) + package.size + len(after)),
        }
        return self._request("POST", "upload_new_version/", (200, 201), headers, body=body())

    def _request(
        self, method: str, path: str, allowed: tuple[int, ...], headers: dict[str, str] | None = None, **body: Any
    ) -> Any:
        """Send a request; the answer's content is not read yet. Raises an error for a status that is not allowed."""
        url, sent_headers = f"{self.address}/{path}", {**self._headers, **(headers or {})}
        response = self._pool.request(method, url, headers=sent_headers, preload_content=False, redirect=False, **body)
        if response.status in allowed:
            return response
        text = response.read(500).decode("utf-8", "replace")
        reason = " ".join(f"{self.public_name}: HTTP {response.status}: {text}".split())
        match response.status:
            case 401 | 403:
                raise TokenError(f"{reason}; set the store's token in ${TOKEN_VARIABLE}", code="store.token")
            case 409:
                raise InputError(f"{reason}; versions never change: choose a higher one", code="store.version_exists")
            case status if status >= 500 or status in _BUSY:
                raise _TryAgainError(reason)
        raise InputError(f"{reason}; check the address, and what the store accepts", code="store.refused")

    def _repeat(self, action: Callable[[], Result]) -> Result:
        """Repeat a request. All of this protocol are safe to repeat."""
        failures = (_TryAgainError, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
        return repeat(action, self.public_name, failures, _PAUSE_S)

    def _json(self, response: Any) -> Any:
        content = response.read(_MAX_ANSWER)
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._unexpected(content) from error

    def _unexpected(self, answer: object) -> TritonkitError:
        return ExternalError(
            f"{self.public_name}: gave an unexpected answer: {answer!r:.200}; is this the address of a store?",
            code="store.answer",
        )
