"""Object stores and remote file systems, through fsspec: `s3://`, `gs://`, `az://`, `sftp://` and others.

Each store's library reads credentials from the environment.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from shutil import copyfileobj
from typing import Any, BinaryIO

from client.picture import Picture
from client.sources.content import FailedContent, Fetch
from client.sources.naming import is_picture_member, public_relative_path
from tritonkit.errors import InputError
from tritonkit.images.picture_files import SkippedFiles, is_hidden
from tritonkit.images.preprocess import MAX_BYTES, SUFFIXES, ImageError
from tritonkit.remotes.addresses import public_name, split_host
from tritonkit.remotes.filesystems import fault_of, open_filesystem, reason_of

_CHUNK = 2**23


@dataclass(frozen=True)
class Store:
    """A file system, and the address it was opened for."""

    files: Any
    address: str
    path: str
    """The path as fsspec writes it."""
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def kind(self) -> str | None:
        """Return `file` or `directory`; None if nothing is there or it cannot be read."""
        try:
            with _translate_errors(self.address):
                return str(self.files.info(self.path)["type"])
        except ImageError:
            return None

    def below(self) -> Iterator[Picture]:
        """Yield the pictures in a folder and its subfolders, by suffix. Raises ImageError."""
        pending: list[dict[str, Any]] = [{"name": self.path, "type": "directory"}]
        while pending:
            entry = pending.pop()
            if entry["type"] == "directory":
                try:
                    pending += sorted(self._entries(entry["name"]), key=itemgetter("name"), reverse=True)
                except ImageError as error:
                    if entry["name"] == self.path or not isinstance(error.__cause__, PermissionError):
                        raise
                    name = self.name_of(entry["name"])
                    yield Picture(name, public_relative_path(name), FailedContent(f"the folder {error}"))
            else:
                yield self.picture(entry["name"], entry.get("size"))

    def matching(self) -> list[str]:
        """Return the paths of a glob's files in order. Raises ImageError."""
        with _translate_errors(self.address):
            matches = self.files.glob(self.path, detail=True)
        return sorted(path for path, entry in matches.items() if entry["type"] == "file")

    def picture(self, path: str, size: int | None = None) -> Picture:
        """Return the picture of a file."""
        name = self.name_of(path)
        return Picture(name, public_relative_path(name), Fetch(partial(self.read, path, size)))

    def read(self, path: str, size: int | None = None) -> bytes:
        """Return the bytes of a file. Raises ImageError."""
        with _translate_errors(self.address):
            size = self.files.info(path)["size"] if size is None else size
            if size is not None and size > MAX_BYTES:
                raise ImageError(f"has {size:,} bytes; at most {MAX_BYTES:,} are read")
            # Not every store knows the size.
            data = bytes(
                self.files.cat_file(path) if size is not None else self.files.cat_file(path, end=MAX_BYTES + 1)
            )
            if len(data) > MAX_BYTES:
                raise ImageError(f"has more than {MAX_BYTES:,} bytes, which is the limit")
            return data

    def read_into(self, path: str, file: BinaryIO) -> None:
        """Copy a file of any size to an open file. Raises ImageError."""
        with _translate_errors(self.address), self.files.open(path, "rb", block_size=_CHUNK) as content:
            copyfileobj(content, file, _CHUNK)

    def name_of(self, path: str) -> str:
        """Return the address of a path. The paths of some file systems begin with the host, as S3's with the bucket."""
        scheme, host = split_host(self.address)
        bare_path = path.lstrip("/")
        has_host = bare_path == host or bare_path.startswith(f"{host}/")
        return f"{scheme}://{bare_path}" if has_host else f"{scheme}://{host}/{bare_path}"

    def _entries(self, folder: str) -> Iterator[dict[str, Any]]:
        with _translate_errors(self.address):
            entries = self.files.ls(folder, detail=True)
        for entry in entries:
            path = entry["name"].rstrip("/")
            name = path.rpartition("/")[2]
            if path == folder.rstrip("/") or is_hidden(name):
                continue  # a store may list the folder itself as one of its entries
            if entry["type"] == "directory" or is_picture_member(name, self.skipped):
                yield entry


def open_store(address: str, skipped: SkippedFiles | None = None) -> Store:
    """Open the store of an address, without a request to it. Raises InputError if a library is missing."""
    files, path = open_filesystem(address)
    return Store(files, address, path, skipped or SkippedFiles())


def has_pattern(address: str) -> bool:
    """Whether an address is a glob."""
    return glob.has_magic(address.partition("://")[2])


def no_files_error(address: str) -> InputError:
    """Return the error for a folder or glob without pictures."""
    name = public_name(address)
    if has_pattern(address):
        return InputError(f"{name}: the pattern matches nothing", code="source.no_match")
    return InputError(
        f"{name}: the folder does not exist or contains no file that ends in {', '.join(sorted(SUFFIXES))}",
        code="source.empty_folder",
    )


@contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # each store's library has its own exceptions
        match fault_of(error):
            case "absent":
                raise ImageError("no file has this name") from error
            case "forbidden":
                message = "the credentials of this environment do not permit reading"
            case _:
                message = "cannot be read"
        raise ImageError(f"{message} ({reason_of(error, address)})") from error
