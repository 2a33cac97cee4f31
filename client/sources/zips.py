"""Images in a zip archive, each unpacked when it is needed."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import BinaryIO
from weakref import finalize

from client.picture import Picture
from client.sources.naming import is_picture_member, safe_relative_path
from tritonkit.errors import first_line
from tritonkit.images.picture_files import SkippedFiles
from tritonkit.images.preprocess import MAX_BYTES, ImageError
from tritonkit.system.files import as_unicode

_ENCRYPTED = 1
"""Bit 0 of the general purpose flags (APPNOTE.TXT, 4.4.4)."""
_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Zip:
    """A zip archive. Its directory is kept in memory, about 600 bytes for each member."""

    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def total(self, file: BinaryIO) -> int:
        """Return the number of pictures in the directory. Raises ImageError."""
        return len({info.filename for info in _members(_open_zip(file), SkippedFiles())})

    def pictures(self, file: BinaryIO, name: str, relative_path: PurePath) -> Iterator[Picture]:
        """Yield the members with names of images, in the archive's order. Raises ImageError."""
        try:
            archive = _open_zip(file)
        except ImageError:
            file.close()
            raise
        # The file must stay open, because members are read after the last one was yielded.
        finalize(archive, file.close)
        for info in _members(archive, self.skipped):
            member_name = as_unicode(info.filename)
            path = relative_path / safe_relative_path(member_name)
            yield Picture(f"{name}/{member_name}", path, partial(_unpack, archive, info))


def _open_zip(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _READ_ERRORS as error:
        raise ImageError(f"is not a readable zip archive ({first_line(error)})") from error


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member; can be called from several threads. Raises ImageError."""
    if info.flag_bits & _ENCRYPTED:
        raise ImageError("is encrypted; unpack the archive first")
    if info.file_size > MAX_BYTES:
        raise ImageError(f"has {info.file_size:,} bytes; at most {MAX_BYTES:,} are unpacked")
    try:
        with archive.open(info) as content:
            return content.read(MAX_BYTES)
    except _READ_ERRORS as error:
        raise ImageError(f"cannot be unpacked ({first_line(error)})") from error


def _members(archive: zipfile.ZipFile, skipped: SkippedFiles) -> Iterator[zipfile.ZipInfo]:
    files = (info for info in archive.infolist() if not info.is_dir())
    return (info for info in files if is_picture_member(info.filename, skipped))
