"""JSON lines: one row's JSON object in each line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from client.outputs.formats.base import EarlierOutput, Heading, OutputFormat, RowFields
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

_DECODER = json.JSONDecoder()
_ROW_PREFIX = '{"path": '


def encode_row(fields: RowFields) -> bytes:
    """Encode a row as a line."""
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode()


def parse_heading(line: bytes) -> Heading | None:
    """Parse the beginning of a line; None if it is not a whole row."""
    if not line.endswith(b"}\n"):
        return None
    try:
        text = line.decode()
        if not text.startswith(_ROW_PREFIX):
            return _heading_of_object(json.loads(text))
        name, end = _DECODER.raw_decode(text, len(_ROW_PREFIX))
    except ValueError:
        return None
    return Heading(name, text.startswith(', "error": ', end)) if isinstance(name, str) else None


def read_rows(path: Path) -> Iterator[RowFields]:
    """Yield the rows of a file, one in memory at a time. Raises InputError for an invalid line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row: RowFields = json.loads(line)
            except ValueError as error:
                raise _invalid_row_error(path, number) from error
            yield row


class JsonLines(OutputFormat):
    """`.jsonl`."""

    def headings(self, path: Path) -> Iterator[Heading]:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                heading = parse_heading(line if line.endswith(b"\n") else line + b"\n")
                if heading is None:
                    raise _invalid_row_error(path, number)
                yield heading

    def write(
        self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: EarlierOutput | None
    ) -> None:
        with files[0].open("wb") as file:
            if earlier is not None:
                file.writelines(self._kept_lines(earlier))
            file.writelines(map(encode_row, rows))

    def _kept_lines(self, earlier: EarlierOutput) -> Iterator[bytes]:
        with earlier.path.open("rb") as lines:
            for line, heading in zip(lines, self.headings(earlier.path), strict=True):
                if earlier.keeps_row(heading.name):
                    yield line if line.endswith(b"\n") else line + b"\n"


def _heading_of_object(row: Any) -> Heading | None:
    name = row.get("path") if isinstance(row, dict) else None
    return Heading(name, "error" in row) if isinstance(name, str) else None


def _invalid_row_error(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is not a row of answers; start over with --overwrite", code="output.row")
