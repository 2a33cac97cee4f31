"""Embeddings as a numpy array, and their names beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from client.outputs.formats.base import Earlier, Format, Heading, RowFields
from model.errors import InputError
from model.tasks import Answer

_KEY = "embedding"


class Embeddings(Format):
    """`.npy`: embeddings of all answered pictures, float32 [N, D]; beside it `<stem>.paths.json`, a list of N paths.

    Pictures without an answer have no row, so that they are asked for again the next time. Of several heads, the
    embeddings stand side by side, in the order of the heads.
    """

    def check(self, path: Path, example: Answer) -> None:
        if example.embedding is None:
            raise InputError(f"{path}: holds embeddings, but this model's answers have none; write .jsonl or .parquet")

    def headings(self, path: Path) -> Iterator[Heading]:
        for name in _listed(paths_beside(path)):
            yield Heading(name, failed=False)

    def files(self, path: Path) -> Sequence[Path]:
        """The names come first: vectors that nothing names would be of no use."""
        return [paths_beside(path), path]

    def write(self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: Earlier | None) -> None:
        size = len(example.embedding) if example.embedding is not None else 0
        listed, vectors = files
        with listed.open("w", encoding="utf-8") as names, vectors.open("wb") as file:
            _header(file, (0, size))
            count = _List(names)
            for name, vector in _kept(earlier) if earlier is not None else ():
                file.write(vector.tobytes())
                count.add(name)
            for row in rows:
                if "error" not in row:
                    file.write(np.array(_numbers(row), "<f4").tobytes())
                    count.add(row["path"])
            count.end()
            file.seek(0)
            _header(file, (count.length, size))  # as long as before: numpy leaves room for any N


def paths_beside(path: Path) -> Path:
    """The file that names the rows of an `.npy` file."""
    return path.with_suffix(".paths.json")


class _List:
    """A JSON list of texts, written one by one, a line each."""

    def __init__(self, file: TextIO) -> None:
        self.length = 0
        self._file = file

    def add(self, text: str) -> None:
        self._file.write(("[\n" if not self.length else ",\n") + json.dumps(text, ensure_ascii=False))
        self.length += 1

    def end(self) -> None:
        self._file.write("\n]" if self.length else "[]")


def _listed(path: Path) -> Iterator[str]:
    """The texts of such a list, one in memory at a time."""
    try:
        with path.open(encoding="utf-8") as lines:
            texts = (line.rstrip(",\n") for line in lines)
            yield from (json.loads(text) for text in texts if text not in ("[", "]", "[]"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); --overwrite starts over") from error


def _kept(earlier: Earlier) -> Iterator[tuple[str, NDArray[np.float32]]]:
    path = earlier.path
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); --overwrite starts over") from error
    # More names than vectors, or more vectors than names: a writer that added rows was killed between the two files.
    # Those rows are in the journal, so none of them stays.
    for number, name in enumerate(_listed(paths_beside(path))):
        if not earlier.stays(name):
            continue
        if number >= len(vectors):
            raise InputError(f"{path}: has fewer rows than {paths_beside(path)} has names; --overwrite starts over")
        yield name, vectors[number]


def _numbers(told: Mapping[str, Any]) -> list[float]:
    """The embedding of an answer, or those of its heads, one after the other."""
    if _KEY in told and isinstance(told[_KEY], list):
        return list(told[_KEY])
    return [number for value in told.values() if isinstance(value, dict) for number in _numbers(value)]


def _header(file: BinaryIO, shape: tuple[int, int]) -> None:
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
