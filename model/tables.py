"""Tables as text files: comma, semicolon, tab or bar between columns; UTF-8, or UTF-16 with its mark.

Needs the standard library alone, so that every verb reads tables in the same way.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

DELIMITERS = (",", ";", "\t", "|")
"""What may stand between columns; the one that cuts the header into the most columns does."""
_SEPARATOR = re.compile("sep=.", re.IGNORECASE)
"""Excel's own first line, which is no part of the table."""
MAX_LINE = 2**20
"""Characters of the longest line that is read."""
_HOLDS_NUL = "holds NUL bytes, so it is no table of text in UTF-8; save it as CSV in UTF-8"


class TableError(ValueError):
    """A file that cannot be read as a table; the message says why, and what to do."""


def table_rows(path: Path, errors: str = "strict") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table one by one, the header first: the line each begins on, and its cells.

    Cells are stripped, and rows without any text are left out. errors: what becomes of bytes that are not UTF-8, as
    for `open`; `surrogateescape` keeps them. Raises TableError.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in head and not utf16:
            raise TableError(_HOLDS_NUL)
        with path.open(newline="", encoding="utf-16" if utf16 else "utf-8-sig", errors=errors) as text:
            yield from _rows(text)
    except UnicodeDecodeError as error:
        raise TableError(_not_text(path, utf16)) from error
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})") from error


def column_number(header: list[str], names: tuple[str, ...]) -> int:
    """The number of the first of these columns that the header has. Raises TableError when it has none."""
    found = [name for name in names if name in header]
    if found:
        return header.index(found[0])
    expected = " or ".join(f"`{name}`" for name in names)
    raise TableError(f"no column {expected}; the columns are: {', '.join(header):.200}")


def path_of(folder: Path, cell: str) -> Path:
    """A file that a table in `folder` names; backslashes part folders where no file has them in its name."""
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
        rows = csv.reader(_chain(first, lines), delimiter=_delimiter(first), skipinitialspace=True, strict=True)
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield begin, cells
            begin = skipped + rows.line_num + 1
    except csv.Error as error:
        raise TableError(f"line {begin}: not readable as CSV ({error})") from error


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if "\0" in line:
            raise TableError(_HOLDS_NUL)
        if len(line) == MAX_LINE:
            raise TableError(f"has a line of more than {MAX_LINE:,} characters; expected a table")
        yield line


def _delimiter(header: str) -> str:
    """The delimiter that cuts the header into the most columns; of equal ones the first."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _not_text(path: Path, utf16: bool) -> str:
    if utf16:
        return "begins as UTF-16 and does not go on so; save it as CSV in UTF-8"
    with path.open("rb") as file:
        number, byte = next(
            ((n, bad) for n, line in enumerate(file, 1) if (bad := _bad_byte(line)) is not None), (1, 0)
        )
    return (
        f"line {number} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, from Latin-1 for example with: "
        f"iconv -f latin1 -t utf-8 {path.name} > utf8.csv"
    )


def _bad_byte(line: bytes) -> int | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return line[error.start]
    return None
