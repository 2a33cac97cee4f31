"""Copies one file of a store: in requests of 8 MiB, continued where an earlier attempt stopped, and checked."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonkit.errors import ExternalError
from tritonkit.remotes.addresses import public_name
from tritonkit.remotes.filesystems import error_of, fault_of, translate_errors

CHUNK = 2**23
"""Bytes of one request; a broken transfer continues after the last whole chunk."""
_ATTEMPTS, _PAUSE_S = 4, 0.5
_VERSION_KEYS = (
    *("ETag", "etag", "md5", "md5Hash", "generation", "versionId", "Last-Modified", "LastModified"),
    *("last_modified", "updated", "mtime", "modified"),
)
"""What the file systems of fsspec say about the version of a file; each has some of them."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store."""

    path: str
    """As fsspec writes it."""
    size: int | None
    version: str
    """A digest of what the store says about the version of the file; empty if it says nothing."""
    md5: str | None
    """Hexadecimal, where the store knows it."""

    @classmethod
    def of(cls, path: str, info: Mapping[str, Any]) -> RemoteFile:
        """Describe a file by what fsspec's `info` or `find` returns."""
        size = info.get("size")
        known = [f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key)]
        version = hashlib.sha256("\n".join([*known, str(size)]).encode()).hexdigest() if known else ""
        return cls(path, None if size is None else int(size), version, _md5_of(info))


@dataclass(frozen=True)
class Transfer:
    """Copies files of one address."""

    files: Any
    """fsspec's file system."""
    address: str

    def copy(self, source: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
        """Append to `partial` what it lacks of a file; it must be of the same version, or absent.

        advance: called with the numbers of bytes that are there. Raises InputError, ExternalError.
        """
        with partial.open("ab") as file:
            advance(file.tell())
            while source.size is None or file.tell() < source.size:
                start = file.tell()
                if source.size is None or (not start and source.size <= CHUNK):
                    data, is_whole = self._read(source.path), True
                else:
                    data = self._read(source.path, start=start, end=min(start + CHUNK, source.size))
                    is_whole = len(data) == source.size  # the server ignores ranges
                if is_whole:
                    file.seek(0)
                    file.truncate()
                file.write(data)
                advance(len(data))
                if is_whole or not data:
                    break
        self._check(source, partial)

    def _read(self, path: str, **limits: int) -> bytes:
        """Read bytes, in a few attempts: the libraries repeat a request that fails, but not a body that breaks off."""
        attempt = 1
        while True:
            try:
                return bytes(self.files.cat_file(path, **limits))
            except Exception as error:  # each store's library has its own exceptions
                if attempt == _ATTEMPTS or fault_of(error) != "unreachable":
                    raise error_of(error, self.address) from error
            time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            attempt += 1

    def _check(self, source: RemoteFile, partial: Path) -> None:
        """Check the size, the hash where the store knows it, and that a large file did not change meanwhile."""
        size, fault = partial.stat().st_size, ""
        if source.size is not None and size != source.size:
            fault = f"{size:,} bytes came, expected {source.size:,}"
        elif source.md5 and (md5 := _file_md5(partial)) != source.md5:
            fault = f"its MD5 is {md5}, and the store says {source.md5}"
        elif size > CHUNK:
            with translate_errors(self.address):
                now = RemoteFile.of(source.path, self.files.info(source.path))
            fault = "it changed meanwhile" if now.version != source.version else ""
        if fault:
            partial.unlink()
            raise ExternalError(
                f"{public_name(self.address)}: {source.path.rpartition('/')[2]} did not arrive whole: {fault}; run the "
                "command again",
                code="remote.incomplete",
            )


def _md5_of(info: Mapping[str, Any]) -> str | None:
    """Return the MD5 that a store knows of a file, in hexadecimal.

    The ETag of S3 is another number for objects that are encrypted or were sent in parts; botocore checks the sums
    that S3 itself sends.
    """
    if text := info.get("md5Hash") or info.get("Content-MD5"):  # Google, HTTP
        with suppress(ValueError):
            return base64.b64decode(text, validate=True).hex()
    if digest := getattr(info.get("content_settings"), "content_md5", None):  # Azure
        return bytes(digest).hex()
    entry = info.get("dvc_info", {}).get("entry")  # DVC; its older `md5-dos2unix` is not of the file's own bytes
    hash_info = getattr(entry, "hash_info", None)
    return str(hash_info.value) if hash_info is not None and hash_info.name == "md5" else None


def _file_md5(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
