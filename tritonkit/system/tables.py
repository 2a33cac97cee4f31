"""Reads tables from text files with comma, semicolon, tab or bar as delimiter, in UTF-8, or UTF-16 with a BOM.

It needs only the standard library, so that every command reads tables in the same way.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

DELIMITERS = (",", ";", "\t", "|")
"""Possible delimiters; the one that splits the header into the most columns is used."""
_SEPARATOR = re.compile("sep=.", re.IGNORECASE)
"""A first line that Excel may write; it is not part of the table."""
MAX_LINE = 2**20
"""Maximum number of characters in a line."""
_HOLDS_NUL = "contains NUL bytes, so it is not a text table in UTF-8; save it as CSV in UTF-8"


class TableError(ValueError):
    """A file cannot be read as a table; the message says why, and what to do. `code` is stable."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


def table_rows(path: Path, errors: str = "strict") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table, the header first, each as the number of its first line and its cells.

    Cells are stripped, and empty rows are skipped. errors: how to decode bytes that are not UTF-8, as for `open`;
    `surrogateescape` keeps them. Raises TableError.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in head and not utf16:
            raise TableError(_HOLDS_NUL, code="table.binary")
        with path.open(newline="", encoding="utf-16" if utf16 else "utf-8-sig", errors=errors) as text:
            yield from _rows(text)
    except UnicodeDecodeError as error:
        raise TableError(_encoding_message(path, utf16), code="table.encoding") from error
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})", code="table.unreadable") from error


def path_of(folder: Path, cell: str) -> Path:
    """Return the path of a file named in a table in `folder`; backslashes separate folders if no such file exists."""
    path = folder / cell
    if "\\" in cell and not path.exists():
        return folder / cell.replace("\\", "/")
    return path


def _rows(text: TextIO) -> Iterator[tuple[int, list[str]]]:
    lines = _lines(text)
    first, skipped = "", 0
    for first in lines:
        if first.strip() and not _SEPARATOR.fullmatch(first.strip()):
            break
        skipped += 1
    begin = skipped + 1
    try:
        delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield begin, cells
            begin = skipped + rows.line_num + 1
    except csv.Error as error:
        raise TableError(f"line {begin}: not readable as CSV ({error})", code="table.csv") from error


def _lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if "\0" in line:
            raise TableError(_HOLDS_NUL, code="table.binary")
        if len(line) == MAX_LINE:
            raise TableError(
                f"has a line of more than {MAX_LINE:,} characters; expected a table", code="table.line_length"
            )
        yield line


def _encoding_message(path: Path, utf16: bool) -> str:
    if utf16:
        return "begins as UTF-16 and is not valid UTF-16; save it as CSV in UTF-8"
    number, byte = 1, 0
    with path.open("rb") as file:
        for at, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                number, byte = at, line[error.start]
                break
    return (
        f"line {number} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, for example from Latin-1 with: "
        f"iconv -f latin1 -t utf-8 {path.name} > utf8.csv"
    )
