"""Lists of paths and addresses: lines of a stream, or a column of a CSV."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tritonkit.errors import InputError
from tritonkit.images.preprocess import ImageError
from tritonkit.remotes.addresses import is_address
from tritonkit.system.files import as_unicode
from tritonkit.system.tables import TableError, table_rows

IMAGE_COLUMNS = ("image_path", "path", "image", "file", "filename", "file_name", "filepath", "image_name", "url")
"""Names of the image column, if no column is set; the first that exists is used."""
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
"""Suffixes of tables; the delimiter is detected from the header."""
_LIST_SUFFIXES = {".txt", ".lst", ".list"}
_MAX_LINE = 2**16


def read_lines(stream: BinaryIO, null: bool) -> Iterator[str]:
    """Yield the lines of a stream as they come, without empty lines. null: they end with NUL.

    Raises ImageError if the stream is not a list.
    """
    separator, tail = b"\0" if null else b"\n", b""
    # Not read(), which waits for a full buffer: the next line of a pipe may come much later.
    read = getattr(stream, "read1", stream.read)
    is_start = True
    while chunk := read(_MAX_LINE):
        if is_start and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ImageError("is UTF-16; expected UTF-8: iconv -f utf-16 -t utf-8")
        chunk, is_start = chunk.removeprefix(codecs.BOM_UTF8) if is_start else chunk, False
        *complete, tail = (tail + chunk).split(separator)
        yield from filter(None, (_line(line, null) for line in complete))
        if len(tail) > _MAX_LINE:
            raise ImageError(f"has a line of more than {_MAX_LINE:,} bytes; expected a list of paths")
    if last := _line(tail, null):
        yield last


def is_list(path: Path) -> bool:
    """Whether a text file begins with a path or an address."""
    if path.suffix.lower() not in _LIST_SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            first = next(read_lines(file, null=False), "")
        return is_address(first) or Path(first).is_file()
    except (OSError, ValueError, ImageError):
        return False  # it is then read as an image, which reports the error


def _line(line: bytes, null: bool) -> str:
    if not null:
        line = line.removesuffix(b"\r")
        if b"\0" in line:
            raise ImageError(
                "contains NUL bytes; expected one path in each line, or with --null, paths that end with NUL"
            )
    return os.fsdecode(line)


@dataclass(frozen=True)
class Column:
    """The column of a table that names images. Bytes that are not UTF-8 are kept, as in file names."""

    path: Path
    name: str | None
    """Name of the column; None uses the first of `IMAGE_COLUMNS`."""

    def check(self) -> None:
        """Raise InputError if the table cannot be read or does not have the column."""
        try:
            first = next(self.cells(), None)
        except ImageError as error:
            raise InputError(f"{self.path}: {error}", code="csv.unreadable") from error
        if first is None:
            raise InputError(f"{self.path}: has a header but no rows", code="csv.no_rows")

    def cells(self) -> Iterator[tuple[int, str]]:
        """Yield the line number and the column's cell of each row; a cell may be empty.

        Raises InputError if the header does not have the column, ImageError if the table cannot be read further.
        """
        rows = table_rows(self.path, errors="surrogateescape")
        try:
            _, header = next(rows, (1, list[str]()))
            present = [name for name in ([self.name] if self.name else IMAGE_COLUMNS) if name in header]
            if not present:
                expected = self.name or f"{', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]}"
                if not header:
                    raise InputError(
                        f"{self.path}: expected a column {expected}, but the file is empty", code="csv.empty"
                    )
                raise InputError(
                    f"{self.path}: expected a column {expected}, got {as_unicode(', '.join(header)):.200}; "
                    "set the column with --column",
                    code="csv.column",
                )
            column = header.index(present[0])
            for line, row in rows:
                yield line, row[column] if column < len(row) else ""
        except TableError as error:
            raise ImageError(str(error)) from error
