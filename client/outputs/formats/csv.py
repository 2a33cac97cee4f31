"""CSV: one line a picture, flat columns.

path, error, then the answer's own keys. A ranking, best first, becomes `label, probability, label_2, probability_2, …`;
where any number of labels may hold, they stand together in `labels`, separated by `|`, and each label has a column
`probability_<label>`, empty where it was not told. A picture's size becomes `width` and `height`. The columns of a head
begin with its name and a dot. What else is nested stands as JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from client.outputs.formats.base import Earlier, Format, Heading, RowFields
from model.errors import InputError
from model.tasks import Answer

_HEAD = ["path", "error"]
_LONGEST_CELL = 2**31 - 1
_JOINT = "|"


class Csv(Format):
    """`.csv`, in UTF-8, as RFC 4180 has it but with plain line ends."""

    def headings(self, path: Path) -> Iterator[Heading]:
        for row in _lines(path):
            yield Heading(row[0], bool(row[1]))

    def write(self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: Earlier | None) -> None:
        columns = [*_HEAD, *flat(example.fields)]
        with files[0].open("w", encoding="utf-8", newline="") as file:
            write = _writer(file)
            write(columns)
            for kept in _lines(earlier.path) if earlier is not None else ():
                if earlier is None or earlier.stays(kept[0]):
                    write(kept)
            for row in rows:
                cells = flat(row)
                write([cells.get(column, "") for column in columns])


def flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of what is told, by column."""
    cells: dict[str, Any] = {}
    for key, value in told.items():
        cells |= _cells(key, value, told)
    return cells


def _cells(key: str, value: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"{key}.{inner}": cell for inner, cell in flat(value).items()}
    if not isinstance(value, list):
        return {key: value}
    if key == "size":
        return dict(zip(("width", "height"), value, strict=True))
    if key == "labels":
        return {key: _JOINT.join(value)}
    if not (value and all(isinstance(entry, dict) and "label" in entry for entry in value)):
        # An empty ranking has no columns: those that other rows have stay empty.
        return {key: json.dumps(value, ensure_ascii=False)} if value else {}
    return _each_label(value) if "labels" in told else _ranks(value)


def _each_label(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}_{entry['label']}": entry[name] for entry in entries for name in entry if name != "label"}


def _ranks(entries: list[dict[str, Any]]) -> dict[str, Any]:
    numbered = [(entry, f"_{rank}" if rank > 1 else "") for rank, entry in enumerate(entries, 1)]
    return {f"{name}{suffix}": value for entry, suffix in numbered for name, value in entry.items()}


@contextmanager
def _long_cells() -> Iterator[None]:
    """An embedding's JSON is longer than the 128 KiB that Python allows a cell, in all readers or in none."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _writer(file: TextIO) -> Callable[[Sequence[Any]], Any]:
    """Writes a row. Before Python 3.13, a carriage return is left without quotes, and readers end the row there."""
    plain = csv.writer(file, lineterminator="\n").writerow
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow

    def write(cells: Sequence[Any]) -> None:
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoted if returns else plain)(cells)

    return write


def _lines(path: Path) -> Iterator[list[str]]:
    """The rows below the head. Raises InputError for one that was not written here."""
    with _long_cells(), path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            head = next(rows, [])
            if head[: len(_HEAD)] != _HEAD:
                raise InputError(f"{path}: begins with other columns than path and error; --overwrite starts over")
            for row in rows:
                if len(row) != len(head):
                    raise _no_row(path, rows.line_num, f"{len(row)} cells, expected {len(head)}")
                yield row
        except csv.Error as error:
            raise _no_row(path, rows.line_num, str(error)) from error
        except UnicodeDecodeError as error:
            raise _no_row(path, _first_not_utf8(path), "not in UTF-8") from error


def _first_not_utf8(path: Path) -> int:
    """The number of the line: text is decoded in larger pieces."""
    with path.open("rb") as lines:
        return next((number for number, line in enumerate(lines, 1) if not _is_utf8(line)), 0)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _no_row(path: Path, number: int, why: str) -> InputError:
    return InputError(
        f"{path}: line {number} is no row of answers ({why}); where another program has changed the file, mend it, "
        "or start over with --overwrite"
    )
