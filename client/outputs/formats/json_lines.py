"""JSON lines: one object a line, the row as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from client.outputs.formats.base import Earlier, Format, Heading, RowFields
from model.errors import InputError
from model.tasks import Answer

_DECODER = json.JSONDecoder()
_BEGINNING = '{"path": '


def line_of(told: RowFields) -> bytes:
    """The line of a row."""
    return (json.dumps(told, ensure_ascii=False) + "\n").encode()


def heading_of(line: bytes) -> Heading | None:
    """What stands at a line's beginning, without reading all of it; None for what is no whole row."""
    if not line.endswith(b"}\n"):
        return None
    try:
        text = line.decode()
        if not text.startswith(_BEGINNING):
            return _heading_anywhere(json.loads(text))
        name, end = _DECODER.raw_decode(text, len(_BEGINNING))
    except ValueError:
        return None
    return Heading(name, text.startswith(', "error": ', end)) if isinstance(name, str) else None


def rows_of(path: Path) -> Iterator[RowFields]:
    """The rows of a file, one in memory at a time. Raises InputError for a line that is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row: RowFields = json.loads(line)
            except ValueError as error:
                raise _no_row(path, number) from error
            yield row


class JsonLines(Format):
    """`.jsonl`."""

    def headings(self, path: Path) -> Iterator[Heading]:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                heading = heading_of(line if line.endswith(b"\n") else line + b"\n")
                if heading is None:
                    raise _no_row(path, number)
                yield heading

    def write(self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: Earlier | None) -> None:
        with files[0].open("wb") as file:
            if earlier is not None:
                file.writelines(self._kept(earlier))
            file.writelines(map(line_of, rows))

    def _kept(self, earlier: Earlier) -> Iterator[bytes]:
        with earlier.path.open("rb") as lines:
            for line, heading in zip(lines, self.headings(earlier.path), strict=True):
                if earlier.stays(heading.name):
                    yield line if line.endswith(b"\n") else line + b"\n"


def _heading_anywhere(row: Any) -> Heading | None:
    name = row.get("path") if isinstance(row, dict) else None
    return Heading(name, "error" in row) if isinstance(name, str) else None


def _no_row(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is no row of answers; --overwrite starts over")
