"""CSV: one row for each image, flat columns.

The columns are path, error, then the answer's keys. A ranking, best first, becomes
`label, probability, label_2, probability_2, …`. The labels of a multilabel answer are in `labels`, separated by `|`,
and each label has a column `probability_<label>`, empty if the answer does not have it. An image's size becomes
`width` and `height`. The columns of a head begin with its name and a dot. Other nested values are JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from client.outputs.formats.base import EarlierOutput, Heading, OutputFormat, RowFields
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

_FIRST_COLUMNS = ["path", "error"]
_MAX_CELL_BYTES = 2**31 - 1
_LABEL_SEPARATOR = "|"


class Csv(OutputFormat):
    r"""`.csv`, UTF-8, as RFC 4180 but with `\n` line ends."""

    def headings(self, path: Path) -> Iterator[Heading]:
        for row in _read_cells(path):
            yield Heading(row[0], bool(row[1]))

    def write(
        self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: EarlierOutput | None
    ) -> None:
        columns = [*_FIRST_COLUMNS, *flat_cells(example.fields)]
        with files[0].open("w", encoding="utf-8", newline="") as file:
            write = _writer(file)
            write(columns)
            for earlier_cells in _read_cells(earlier.path) if earlier is not None else ():
                if earlier is None or earlier.keeps_row(earlier_cells[0]):
                    write(earlier_cells)
            for row in rows:
                cells = flat_cells(row)
                write([cells.get(column, "") for column in columns])


def flat_cells(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CSV cells of an answer's fields, by column."""
    cells: dict[str, Any] = {}
    for key, value in fields.items():
        cells |= _cells(key, value, fields)
    return cells


def _cells(key: str, value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"{key}.{inner}": cell for inner, cell in flat_cells(value).items()}
    if not isinstance(value, list):
        return {key: value}
    if key == "size":
        return dict(zip(("width", "height"), value, strict=True))
    if key == "labels":
        return {key: _LABEL_SEPARATOR.join(value)}
    if not (value and all(isinstance(entry, dict) and "label" in entry for entry in value)):
        # An empty ranking has no columns; the columns of other rows stay empty.
        return {key: json.dumps(value, ensure_ascii=False)} if value else {}
    return _label_cells(value) if "labels" in fields else _rank_cells(value)


def _label_cells(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}_{entry['label']}": entry[name] for entry in entries for name in entry if name != "label"}


def _rank_cells(entries: list[dict[str, Any]]) -> dict[str, Any]:
    numbered = [(entry, f"_{rank}" if rank > 1 else "") for rank, entry in enumerate(entries, 1)]
    return {f"{name}{suffix}": value for entry, suffix in numbered for name, value in entry.items()}


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow long cells: the JSON of an embedding is longer than Python's limit of 128 KiB, which is global."""
    previous_limit = csv.field_size_limit(_MAX_CELL_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(previous_limit)


def _writer(file: TextIO) -> Callable[[Sequence[Any]], Any]:
    """Return a function that writes a row; it quotes carriage returns, which csv does not before Python 3.13."""
    plain = csv.writer(file, lineterminator="\n").writerow
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow

    def write(cells: Sequence[Any]) -> None:
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if has_return else plain)(cells)

    return write


def _read_cells(path: Path) -> Iterator[list[str]]:
    """Yield the rows below the header. Raises InputError for a row that tritonkit did not write."""
    with _long_cells(), path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            head = next(rows, [])
            if head[: len(_FIRST_COLUMNS)] != _FIRST_COLUMNS:
                raise InputError(
                    f"{path}: expected path and error as the first columns; start over with --overwrite",
                    code="output.columns",
                )
            for row in rows:
                if len(row) != len(head):
                    raise _invalid_row_error(path, rows.line_num, f"{len(row)} cells, expected {len(head)}")
                yield row
        except csv.Error as error:
            raise _invalid_row_error(path, rows.line_num, str(error)) from error
        except UnicodeDecodeError as error:
            raise _invalid_row_error(path, _first_not_utf8(path), "not in UTF-8") from error


def _first_not_utf8(path: Path) -> int:
    """Return the number of the first line that is not UTF-8; Python decodes larger blocks."""
    with path.open("rb") as lines:
        return next((line_number for line_number, line in enumerate(lines, 1) if not _is_utf8(line)), 0)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _invalid_row_error(path: Path, line_number: int, reason: str) -> InputError:
    return InputError(
        f"{path}: line {line_number} is not a row of answers ({reason}); repair the file if another program changed "
        "it, or start over with --overwrite",
        code="output.row",
    )
