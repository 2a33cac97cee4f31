"""Embeddings as a NumPy array, with their names in a second file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from client.outputs.formats.base import EarlierOutput, Heading, OutputFormat, RowFields
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

_KEY = "embedding"


class Embeddings(OutputFormat):
    """`.npy`: embeddings of all answered images, float32 [N, D]; `<stem>.paths.json` lists their N paths.

    Images without an answer have no row, so they are answered again in the next run. The embeddings of several heads
    are concatenated in the order of the heads.
    """

    def check(self, path: Path, example: Answer) -> None:
        if example.embedding is None:
            raise InputError(
                f"{path}: the format is for embeddings, but this model's answers have none; use .jsonl or .parquet",
                code="output.no_embeddings",
            )

    def headings(self, path: Path) -> Iterator[Heading]:
        for name in _read_json_list(paths_file(path)):
            yield Heading(name, failed=False)

    def files(self, path: Path) -> Sequence[Path]:
        """The names come first, because vectors without names are useless."""
        return [paths_file(path), path]

    def write(
        self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: EarlierOutput | None
    ) -> None:
        size = len(example.embedding) if example.embedding is not None else 0
        paths_path, vectors_path = files
        with paths_path.open("w", encoding="utf-8") as names, vectors_path.open("wb") as file:
            _write_header(file, (0, size))
            count = _JsonListWriter(names)
            for name, vector in _kept_rows(earlier) if earlier is not None else ():
                file.write(vector.tobytes())
                count.add(name)
            for row in rows:
                if "error" not in row:
                    file.write(np.array(_embedding_values(row), "<f4").tobytes())
                    count.add(row["path"])
            count.close_list()
            file.seek(0)
            _write_header(file, (count.length, size))  # the same length, because numpy reserves space for any N


def paths_file(path: Path) -> Path:
    """Return the path of the file with the names of an `.npy` file's rows."""
    return path.with_suffix(".paths.json")


class _JsonListWriter:
    """Writes a JSON list of strings, one in each line."""

    def __init__(self, file: TextIO) -> None:
        self.length = 0
        self._file = file

    def add(self, text: str) -> None:
        self._file.write(("[\n" if not self.length else ",\n") + json.dumps(text, ensure_ascii=False))
        self.length += 1

    def close_list(self) -> None:
        self._file.write("\n]" if self.length else "[]")


def _read_json_list(path: Path) -> Iterator[str]:
    """Yield the strings of such a list, one in memory at a time."""
    try:
        with path.open(encoding="utf-8") as lines:
            texts = (line.rstrip(",\n") for line in lines)
            yield from (json.loads(text) for text in texts if text not in ("[", "]", "[]"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); start over with --overwrite", code="output.unreadable"
        ) from error


def _kept_rows(earlier: EarlierOutput) -> Iterator[tuple[str, NDArray[np.float32]]]:
    path = earlier.path
    try:
        vectors_path = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); start over with --overwrite", code="output.unreadable"
        ) from error
    # The numbers of names and vectors differ if a client that added rows was killed between the two files.
    # Such rows are also in the journal, so they are dropped here.
    for number, name in enumerate(_read_json_list(paths_file(path))):
        if not earlier.keeps_row(name):
            continue
        if number >= len(vectors_path):
            raise InputError(
                f"{path}: has fewer rows than {paths_file(path)} has names; start over with --overwrite",
                code="output.row_count",
            )
        yield name, vectors_path[number]


def _embedding_values(fields: Mapping[str, Any]) -> list[float]:
    """Return the embedding of an answer, or the concatenated embeddings of its heads."""
    if _KEY in fields and isinstance(fields[_KEY], list):
        return list(fields[_KEY])
    return [number for value in fields.values() if isinstance(value, dict) for number in _embedding_values(value)]


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
