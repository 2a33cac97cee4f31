"""CSV: one line a picture, flat columns.

path, error, then the answer's own keys. A ranking, best first, becomes `label, probability, label_2, probability_2, …`;
where any number of labels may hold, they stand together in `labels`, separated by `|`, and each label has a column
`probability_<label>`, empty where it was not told. A picture's size becomes `width` and `height`. The columns of a head
begin with its name and a dot. What else is nested stands as JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client.outputs.formats.base import Earlier, Format, Heading, Told
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

    def write(self, files: Sequence[Path], rows: Iterable[Told], example: Answer, earlier: Earlier | None) -> None:
        columns = [*_HEAD, *flat(example.told)]
        with files[0].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            if earlier is not None:
                writer.writerows(row for row in _lines(earlier.path) if earlier.stays(row[0]))
            for row in rows:
                cells = flat(row)
                writer.writerow([cells.get(column, "") for column in columns])


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


def _lines(path: Path) -> Iterator[list[str]]:
    with _long_cells(), path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, [])[: len(_HEAD)] != _HEAD:
            raise InputError(f"{path}: begins with other columns than path and error; --overwrite starts over")
        yield from rows
