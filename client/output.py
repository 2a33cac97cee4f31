"""Rows written as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from client.infer import Row
from model.errors import InputError


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        """Write one row; it is in the file when this returns."""
        self._file.write(json.dumps(row.as_json(), ensure_ascii=False) + "\n")
        self._file.flush()


@contextmanager
def json_lines(path: Path) -> Iterator[JsonLines]:
    """Write to `<path>.partial`, which takes `path`'s place at the end; after an error it stays as far as it came.

    Raises InputError for a suffix that is not `.jsonl`, or a folder that cannot be written to.
    """
    if path.suffix != ".jsonl":
        raise InputError(f"{path}: results are written as .jsonl, one JSON object a line")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        yield JsonLines(file)
    partial.replace(path)
