"""Object stores and file systems elsewhere, by fsspec: `s3://`, `gs://`, `az://`, `sftp://` and others.

Credentials are what each store's library finds in the environment.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from shutil import copyfileobj
from typing import Any, BinaryIO

from client.picture import Picture
from client.sources.content import FailedContent, Fetch
from client.sources.naming import named_like_picture, public_place, split_host, without_secrets
from model.errors import InputError, first_line
from model.picture_files import SkippedFiles, is_hidden
from model.preprocess import MAX_BYTES, SUFFIXES, ImageError

_CHUNK = 2**23
_EXTRA = "install it with: pip install 'tritonkit[remote]'"


@dataclass(frozen=True)
class Store:
    """A file system, and the address that it was opened for."""

    files: Any
    address: str
    path: str
    """As the file system has it."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def kind(self) -> str | None:
        """`file` or `directory`; None where there is nothing, or nothing can be found out."""
        try:
            with _translated(self.address):
                return str(self.files.info(self.path)["type"])
        except ImageError:
            return None

    def below(self) -> Iterator[Picture]:
        """The pictures in a folder, by suffix, with all below. Raises ImageError."""
        waiting: list[dict[str, Any]] = [{"name": self.path, "type": "directory"}]
        while waiting:
            entry = waiting.pop()
            if entry["type"] == "directory":
                try:
                    waiting += sorted(self._entries(entry["name"]), key=_name, reverse=True)
                except ImageError as error:
                    if entry["name"] == self.path or not isinstance(error.__cause__, PermissionError):
                        raise
                    name = self.name_of(entry["name"])
                    yield Picture(name, public_place(name), FailedContent(f"the folder {error}"))
            else:
                yield self.picture(entry["name"], entry.get("size"))

    def matching(self) -> list[str]:
        """The paths of the files that a glob stands for, in order. Raises ImageError."""
        with _translated(self.address):
            found = self.files.glob(self.path, detail=True)
        return sorted(path for path, entry in found.items() if entry["type"] == "file")

    def picture(self, path: str, size: int | None = None) -> Picture:
        """A picture of this file system."""
        name = self.name_of(path)
        return Picture(name, public_place(name), Fetch(partial(self.read, path, size)))

    def read(self, path: str, size: int | None = None) -> bytes:
        """The bytes of a file. Raises ImageError."""
        with _translated(self.address):
            size = self.files.info(path)["size"] if size is None else size
            if size is not None and size > MAX_BYTES:
                raise ImageError(f"has {size:,} bytes; at most {MAX_BYTES:,} are read")
            # Not every store tells a size.
            data = bytes(
                self.files.cat_file(path) if size is not None else self.files.cat_file(path, end=MAX_BYTES + 1)
            )
            if len(data) > MAX_BYTES:
                raise ImageError(f"has more than {MAX_BYTES:,} bytes, which are not read")
            return data

    def read_into(self, path: str, file: BinaryIO) -> None:
        """Write a file of any size to another. Raises ImageError."""
        with _translated(self.address), self.files.open(path, "rb", block_size=_CHUNK) as content:
            copyfileobj(content, file, _CHUNK)

    def name_of(self, path: str) -> str:
        """The address of a file: some file systems have the host in their paths, as S3 has the bucket."""
        scheme, host = split_host(self.address)
        bare = path.lstrip("/")
        within = bare == host or bare.startswith(f"{host}/")
        return f"{scheme}://{bare}" if within else f"{scheme}://{host}/{bare}"

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        with _translated(self.address):
            listed = self.files.ls(folder, detail=True)
        # A store lists a marker of the folder itself in it.
        own = folder.rstrip("/")
        inner = [entry for entry in listed if entry["name"].rstrip("/") != own]
        seen = [entry for entry in inner if not is_hidden(entry["name"].rstrip("/").rpartition("/")[2])]
        return [entry for entry in seen if entry["type"] == "directory" or self._is_picture(entry["name"])]

    def _is_picture(self, path: str) -> bool:
        return named_like_picture(path.rpartition("/")[2], self.skipped)


def open_store(address: str, skipped: SkippedFiles | None = None) -> Store:
    """The store of an address; nothing is asked of it yet. Raises InputError when a library is missing."""
    scheme = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise InputError(f"{scheme}:// is read with fsspec; {_EXTRA}") from error
    try:
        # Listings are not kept: each is asked for once, and they are large.
        files, path = url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        hint = _EXTRA if scheme in ("s3", "s3a") else first_line(error)
        raise InputError(f"a library for {scheme}:// is missing; {hint}") from error
    except Exception as error:
        raise InputError(without_secrets(first_line(error), address)) from error
    return Store(files, address, path, skipped or SkippedFiles())


def has_pattern(address: str) -> bool:
    """Whether an address is a glob."""
    return glob.has_magic(address.partition("://")[2])


def why_nothing(address: str) -> str:
    """Why an address has given no picture."""
    if has_pattern(address):
        return "the pattern matches nothing"
    return f"the folder holds no file that ends in {', '.join(sorted(SUFFIXES))}, or there is none"


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"])


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is nothing of this name") from error
    except PermissionError as error:
        raise ImageError(f"may not be read with the credentials of this environment{_said(error, address)}") from error
    except Exception as error:  # every store's library has a tree of its own
        raise ImageError(f"cannot be read{_said(error, address)}") from error


def _said(error: Exception, address: str) -> str:
    said = getattr(error, "strerror", None) or first_line(error)
    return f" ({without_secrets(said, address)})"
