"""A client of collection services: JSON over HTTP, described in docs/collections.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import urllib3
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tritonkit.errors import ExternalError, InputError, first_line
from tritonkit.images.preprocess import MAX_BYTES
from tritonkit.remotes.addresses import has_secret, is_web, public_name
from tritonkit.remotes.tokens import token_problem
from tritonkit.spec import validation_problems
from tritonkit.system.env_file import settings_with_prefix
from tritonkit.triton.retry import RetryPolicy

TOKEN_VARIABLE = "TRITONKIT_COLLECTION_TOKEN"  # noqa: S105 - the name of a variable
_PAGE_BYTES = 2**25
_MOST_PICTURES = 10_000_000
"""Of a group. A listing must end."""
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_RETRIES = urllib3.Retry(total=3, connect=0, read=0, redirect=3, status=0, other=0, raise_on_status=False)
"""Only redirects; `RetryPolicy` repeats failed requests."""
_ATTEMPTS = 3
"""Requests for a picture whose content is not the listed one."""
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class PictureEntry(BaseModel):
    """A picture of a group, as the service lists it. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)

    id: Text
    name: str = Field(default="", max_length=1000)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_BYTES)
    label: Text | None = None
    labels: tuple[Text, ...] | None = None
    meta: dict[str, JsonValue] = {}


class _Page(BaseModel):
    pictures: tuple[PictureEntry, ...]
    next: Text | None = None


class ContentError(Exception):
    """The service does not have a picture that it lists, or has another content under its id."""


class CollectionService:
    """Reads groups and pictures of a service. Thread-safe."""

    def __init__(self, url: str, threads: int, retry_s: float) -> None:
        """Check the address; the token comes from the environment or `.env`. Raises InputError."""
        if not is_web(url) or has_secret(url) or "?" in url or "#" in url:
            raise InputError(
                f"--url {public_name(url)}: expected http://HOST:PORT/PATH or https://, without user, query or token; "
                f"set the token as {TOKEN_VARIABLE}",
                code="collection.url",
            )
        self.url, self.policy = url.rstrip("/"), RetryPolicy(retry_s)
        token = settings_with_prefix(TOKEN_VARIABLE).get(TOKEN_VARIABLE)
        if problem := token_problem(TOKEN_VARIABLE, token):
            raise InputError(problem, code="collection.token")
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._pool = urllib3.PoolManager(maxsize=threads, timeout=_TIMEOUT, retries=_RETRIES)

    def pictures(self, group: str) -> Iterator[PictureEntry]:
        """Yield the pictures of all pages of a group. Raises InputError, ExternalError."""
        path, page, seen, count = f"/groups/{quote(group, safe='')}/pictures", None, set[str | None](), 0
        while page not in seen:
            seen.add(page)
            try:
                body = self._get(path + (f"?{urlencode({'page': page})}" if page else ""), _PAGE_BYTES)
            except ContentError as error:
                raise InputError(
                    f"{self.url}: has no group {group!r}; check --group and --url", code="collection.unknown_group"
                ) from error
            try:
                answer = _Page.model_validate_json(body)
            except ValidationError as error:
                problems = "\n".join(validation_problems(error).splitlines()[:5])
                raise self._protocol_error(f"{path} is no page of pictures:\n{problems}") from error
            yield from answer.pictures
            if answer.next is None:
                return
            count += len(answer.pictures)
            if not answer.pictures or count > _MOST_PICTURES:
                problem = f"has more than {_MOST_PICTURES:,} pictures" if answer.pictures else "has a page of none"
                raise self._protocol_error(f"{path} {problem}, and names a next page {answer.next!r:.100}")
            page = answer.next
        raise self._protocol_error(f"{path} names page {page!r} as the next one twice")

    def content(self, entry: PictureEntry) -> bytes:
        """Fetch a picture and check its SHA-256. Raises ContentError, InputError, ExternalError."""
        for _ in range(_ATTEMPTS):
            data = self._get(f"/pictures/{quote(entry.id, safe='')}", entry.bytes)
            digest = hashlib.sha256(data).hexdigest()
            if digest == entry.sha256:
                return data
        raise ContentError(
            f"{len(data):,} bytes with SHA-256 {digest[:12]}… came, expected {entry.bytes:,} with {entry.sha256[:12]}…"
        )

    def _get(self, path: str, limit: int) -> bytes:
        return self.policy.call(lambda: self._get_once(path, limit), (ExternalError,), "--retry-s")

    def _get_once(self, path: str, limit: int) -> bytes:
        """Request a path once. Raises ContentError for 404, ExternalError where a retry may help, else InputError."""
        try:
            response: Any = self._pool.request(
                "GET", f"{self.url}{path}", headers=self._headers, preload_content=False, decode_content=False
            )
            try:
                body: bytes = response.read(limit + 1)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = first_line(getattr(error, "reason", None) or error)
            raise ExternalError(
                f"{self.url}: cannot be read ({reason}); run the command again, which continues where it stopped",
                code="collection.unreachable",
            ) from error
        status = response.status
        if status == 404:
            raise ContentError("the service does not have it (404)")
        if status in (401, 403):
            raise InputError(
                f"{self.url}: refuses the request ({status}); set {TOKEN_VARIABLE} to a token that may read {path}",
                code="collection.token",
            )
        if status in (408, 425, 429) or status >= 500:
            raise ExternalError(f"{self.url}: answered {status}; try again later", code="collection.unavailable")
        if status != 200:
            raise self._protocol_error(f"{path} answered {status}, expected 200")
        if len(body) > limit:
            if limit == _PAGE_BYTES:
                raise self._protocol_error(f"{path} has more than {limit:,} bytes; lower the pictures of a page")
            raise ContentError(f"more than the listed {limit:,} bytes came")
        return body

    def _protocol_error(self, problem: str) -> InputError:
        return InputError(
            f"{self.url}: is no collection service as docs/collections.md describes it: {problem}",
            code="collection.protocol",
        )
