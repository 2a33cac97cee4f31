"""Lists of paths and addresses: lines of a stream, or a column of a CSV."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from client.picture import as_text
from client.sources.naming import is_address
from model.errors import InputError
from model.preprocess import ImageError
from model.tables import TableError, table_rows

COLUMNS = ("image_path", "path", "image", "file", "filename", "file_name", "filepath", "image_name", "url")
"""The columns that hold pictures where none is named, the first of them that there is."""
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
"""Ends of tables' names; what stands between columns is seen in the header."""
_LIST_SUFFIXES = {".txt", ".lst", ".list"}
_MAX_LINE = 2**16


def lines(stream: BinaryIO, null: bool) -> Iterator[str]:
    """The lines of a stream as they come, without empty ones; they end with a NUL for `null`.

    Raises ImageError for what is no list.
    """
    end, rest = b"\0" if null else b"\n", b""
    # Not read(): a pipe may bring the next line in an hour.
    read = getattr(stream, "read1", stream.read)
    begins = True
    while chunk := read(_MAX_LINE):
        if begins and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ImageError("is UTF-16; expected UTF-8: iconv -f utf-16 -t utf-8")
        chunk, begins = chunk.removeprefix(codecs.BOM_UTF8) if begins else chunk, False
        *whole, rest = (rest + chunk).split(end)
        yield from filter(None, (_line(line, null) for line in whole))
        if len(rest) > _MAX_LINE:
            raise ImageError(f"a line of more than {_MAX_LINE:,} bytes; expected a list of paths")
    if last := _line(rest, null):
        yield last


def is_list(path: Path) -> bool:
    """Whether a file that is named like text begins with the path or address of something."""
    if path.suffix.lower() not in _LIST_SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            first = next(lines(file, null=False), "")
        return is_address(first) or Path(first).is_file()
    except (OSError, ValueError, ImageError):
        return False  # then it is answered as any file, which tells what is wrong


def _line(line: bytes, null: bool) -> str:
    if not null:
        line = line.removesuffix(b"\r")
        if b"\0" in line:
            raise ImageError("holds NUL bytes; expected a path a line, or, with --null, paths that end with NUL")
    return os.fsdecode(line)


@dataclass(frozen=True)
class Column:
    """The column of a table that names pictures; bytes that are no UTF-8 are kept, as in names of files."""

    path: Path
    wanted: str | None
    """Its name; None for the first of `COLUMNS`."""

    def check(self) -> None:
        """Raises InputError when it cannot be read, or has no such column."""
        try:
            first = next(self.cells(), None)
        except ImageError as error:
            raise InputError(f"{self.path}: {error}") from error
        if first is None:
            raise InputError(f"{self.path}: has a header and no rows")

    def cells(self) -> Iterator[tuple[int, str]]:
        """Number of the line and what the column holds there, which may be nothing.

        Raises InputError for a header without the column, ImageError where it cannot be read on.
        """
        rows = table_rows(self.path, errors="surrogateescape")
        try:
            _, header = next(rows, (1, list[str]()))
            column = self._number(header)
            for line, row in rows:
                yield line, row[column] if column < len(row) else ""
        except TableError as error:
            raise ImageError(str(error)) from error

    def _number(self, header: list[str]) -> int:
        found = [name for name in ([self.wanted] if self.wanted else COLUMNS) if name in header]
        if not found:
            expected = self.wanted or f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
            came = f"its header has {as_text(', '.join(header)):.200}" if header else "it is empty"
            raise InputError(f"{self.path}: expected a column {expected}, {came}; name one with --column")
        return header.index(found[0])
