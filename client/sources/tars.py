"""Pictures in a tar archive, plain or compressed.

Of a plain one each member is read when it is its turn. A compressed one can only be read from the start to the end.
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

from client.picture import Picture, as_text
from client.sources.content import FailedContent, FileSlice, SharedFile, SpillBuffer
from client.sources.naming import named_like_picture, safe_place
from model.errors import first_line
from model.picture_files import SkippedFiles
from model.preprocess import MAX_BYTES, ImageError

_PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes: RFC 1952, bzip2's and xz's own file formats."""
_MAX_HEADER = 2**20
"""Bytes of a long name or of extended attributes, which tarfile takes into memory as large as they say they are."""
_BROKEN = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError)
_Content: TypeAlias = Callable[[], bytes]


class _Careful:
    """What tarfile reads headers through: never more than one at once, and the last is known."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise ImageError(f"a header of {size:,} bytes; at most {_MAX_HEADER:,} are read")
        self.last = self._read(size)
        return self.last


@dataclass(frozen=True)
class Tar:
    """Links and sparse files in it are not followed, and devices are not opened."""

    holder: SpillBuffer
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def total(self, file: BinaryIO) -> None:
        """Nobody knows before its end."""

    def pictures(self, file: BinaryIO, name: str, place: PurePath) -> Iterator[Picture]:
        """The files that are named like pictures, in the archive's order. Raises ImageError."""
        shared = SharedFile(file)
        start = file.read(6)
        file.seek(0)
        unpack = next((unpack for magic, unpack in _PACKED.items() if start.startswith(magic)), None)
        content = cast("IO[bytes]", unpack(file)) if unpack else file
        for member in _members(content, self.skipped):
            inner = as_text(member.name)
            if unpack is None:
                held: _Content = FileSlice(shared, member.offset_data, member.size)
            else:
                held = _taken_now(content, member, self.holder)
            bad = _why_not(member)
            yield Picture(f"{name}/{inner}", place / safe_place(inner), FailedContent(bad) if bad else held)


def _members(content: IO[bytes], skipped: SkippedFiles) -> Iterator[tarfile.TarInfo]:
    """Those that are named like pictures, and are no links or devices; other files are counted."""
    careful = _Careful(content)
    with _translated():
        archive = tarfile.open(fileobj=cast("IO[bytes]", careful), mode="r:")  # noqa: SIM115 - nothing to close
    while member := _next(archive):
        if not member.isdir() and named_like_picture(member.name, skipped):
            if member.isreg():
                yield member
            else:
                skipped.kinds["links or devices in an archive"] += 1
        archive.members = []  # type: ignore[attr-defined]  # or it would remember all of them
    # A header that is none looks to tarfile like the end, which is a block of zeros, or nothing.
    if careful.last.strip(b"\0"):
        raise ImageError("what follows is no tar archive")


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _translated():
        return archive.next()


def _why_not(member: tarfile.TarInfo) -> str | None:
    if member.size > MAX_BYTES:
        return f"has {member.size:,} bytes; at most {MAX_BYTES:,} are read"
    return "is a sparse file; unpack the archive first" if member.issparse() else None


def _taken_now(content: IO[bytes], member: tarfile.TarInfo, holder: SpillBuffer) -> _Content:
    if _why_not(member):
        return FailedContent("")
    with _translated():
        content.seek(member.offset_data)
        data = content.read(member.size)
    if len(data) < member.size:
        raise ImageError(f"it ends {member.size - len(data):,} bytes too early")
    return holder.hold(data)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except _BROKEN as error:
        raise ImageError(f"is no whole tar archive ({first_line(error)})") from error
