"""Pictures in a zip archive, each unpacked when it is its turn."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import BinaryIO
from weakref import finalize

from client.picture import Picture, as_text
from client.sources.naming import named_like_picture, safe_place
from model.errors import first_line
from model.picture_files import SkippedFiles
from model.preprocess import MAX_BYTES, ImageError

_ENCRYPTED = 1
"""Bit 0 of the general purpose flags (APPNOTE.TXT, 4.4.4)."""
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class _Member:
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def __call__(self) -> bytes:
        """The bytes; from several threads. Raises ImageError."""
        if self.info.flag_bits & _ENCRYPTED:
            raise ImageError("is encrypted; unpack the archive first")
        if self.info.file_size > MAX_BYTES:
            raise ImageError(f"has {self.info.file_size:,} bytes; at most {MAX_BYTES:,} are unpacked")
        try:
            with self.archive.open(self.info) as content:
                return content.read(MAX_BYTES)
        except _BROKEN as error:
            raise ImageError(f"cannot be unpacked ({first_line(error)})") from error


@dataclass(frozen=True)
class Zip:
    """Its table of contents is held in memory, about 600 bytes for each member."""

    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def total(self, file: BinaryIO) -> int:
        """As the table of contents says. Raises ImageError."""
        return len({info.filename for info in _members(_opened(file), SkippedFiles())})

    def pictures(self, file: BinaryIO, name: str, place: PurePath) -> Iterator[Picture]:
        """The members that are named like pictures, in the archive's order. Raises ImageError."""
        try:
            archive = _opened(file)
        except ImageError:
            file.close()
            raise
        # Members are read long after the last of them was handed out.
        finalize(archive, file.close)
        for info in _members(archive, self.skipped):
            inner = as_text(info.filename)
            yield Picture(f"{name}/{inner}", place / safe_place(inner), _Member(archive, info))


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _BROKEN as error:
        raise ImageError(f"is no zip archive that can be opened ({first_line(error)})") from error


def _members(archive: zipfile.ZipFile, skipped: SkippedFiles) -> Iterator[zipfile.ZipInfo]:
    files = (info for info in archive.infolist() if not info.is_dir())
    return (info for info in files if named_like_picture(info.filename, skipped))
