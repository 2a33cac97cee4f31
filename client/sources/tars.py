"""Images in a tar archive, plain or compressed.

A plain archive's members are read when they are needed. A compressed archive can only be read from start to end.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import IO, Any, BinaryIO, TypeAlias, cast

from client.picture import Picture
from client.sources.content import FailedContent, FileSlice, SharedFile, SpillBuffer
from client.sources.naming import is_picture_member, safe_relative_path
from tritonkit.errors import first_line
from tritonkit.images.picture_files import SkippedFiles
from tritonkit.images.preprocess import MAX_BYTES, ImageError
from tritonkit.system.files import as_unicode

_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""By the first bytes: RFC 1952, and the file formats of bzip2 and xz."""
_MAX_HEADER = 2**20
"""Limit for a header in bytes: tarfile reads a long name or extended attributes into memory at their declared size."""
_READ_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError)
_Content: TypeAlias = Callable[[], bytes]


class _BoundedReader:
    """Gives tarfile one header at a time, with a size limit, and remembers the last header."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise ImageError(f"has a header of {size:,} bytes; at most {_MAX_HEADER:,} are read")
        self.last = self._read(size)
        return self.last


@dataclass(frozen=True)
class Tar:
    """A tar archive. Links and sparse files are not followed, devices are not opened."""

    buffer: SpillBuffer
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def total(self, file: BinaryIO) -> None:
        """Return None: the number is known only at the end of the archive."""

    def pictures(self, file: BinaryIO, name: str, relative_path: PurePath) -> Iterator[Picture]:
        """Yield the members with names of images, in the archive's order. Raises ImageError."""
        shared = SharedFile(file)
        start = file.read(6)
        file.seek(0)
        decompress = next((decompress for magic, decompress in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        content = cast("IO[bytes]", decompress(file)) if decompress else file
        for member in _members(content, self.skipped):
            member_name = as_unicode(member.name)
            if member.size > MAX_BYTES:
                member_content: _Content = FailedContent(f"has {member.size:,} bytes; at most {MAX_BYTES:,} are read")
            elif member.issparse():
                member_content = FailedContent("is a sparse file; unpack the archive first")
            elif decompress is None:
                member_content = FileSlice(shared, member.offset_data, member.size)
            else:
                with _translate_errors():
                    content.seek(member.offset_data)
                    data = content.read(member.size)
                if len(data) < member.size:
                    raise ImageError(f"the archive is truncated, {member.size - len(data):,} bytes are missing")
                member_content = self.buffer.store(data)
            yield Picture(f"{name}/{member_name}", relative_path / safe_relative_path(member_name), member_content)


def _members(content: IO[bytes], skipped: SkippedFiles) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files with names of images; other files are counted."""
    reader = _BoundedReader(content)
    with _translate_errors():
        archive = tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:")  # noqa: SIM115 - has nothing to close
    while True:
        with _translate_errors():
            member = archive.next()
        if member is None:
            break
        if not member.isdir() and is_picture_member(member.name, skipped):
            if member.isreg():
                yield member
            else:
                skipped.kinds["links or devices in an archive"] += 1
        archive.members = []  # type: ignore[attr-defined]  # else it would keep all members
    # tarfile takes an invalid header for the end of the archive, which is a block of zeros, or nothing.
    if reader.last.strip(b"\0"):
        raise ImageError("the rest is not a tar archive")


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except _READ_ERRORS as error:
        raise ImageError(f"is not a complete tar archive ({first_line(error)})") from error
