"""The formats of output files, by the suffix of the file name; each writes the rows of a job from first to last."""

from __future__ import annotations

import csv
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib import format as npy

from tritonkit.errors import InputError
from tritonkit.tasks import Answer

RowFields: TypeAlias = dict[str, Any]
"""The JSON object of a row: `path`, and the answer's keys or `error`."""
ROW_GROUP = 1000
"""Rows of a Parquet file that are collected in memory and written together."""


class OutputFormat(ABC):
    """A format of output files."""

    def check(self, path: Path, example: Answer) -> None:  # noqa: B027 - most formats can write any answers
        """Refuse answers that the format cannot write. Raises InputError.

        example: an answer of the model with every field filled.
        """

    def files(self, path: Path) -> Sequence[Path]:
        """Return the files of an output in the order in which they are put into place; `path` is the last."""
        return [path]

    @abstractmethod
    def write(self, files: Sequence[Path], rows: Iterable[str], example: Answer) -> None:
        """Write an output row by row.

        files: temporary files in the order of `files`. rows: the JSON text of each row.
        """


class JsonLines(OutputFormat):
    """`.jsonl`: one row's JSON object in each line."""

    def write(self, files: Sequence[Path], rows: Iterable[str], example: Answer) -> None:
        with files[0].open("w", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)


class Csv(OutputFormat):
    r"""CSV with flat columns, UTF-8, as RFC 4180 but with `\n` line ends.

    The columns are path, error, then the answer's keys. A ranking, best first, becomes
    `label, probability, label_2, probability_2, …`. The labels of a multilabel answer are in `labels`, separated by
    `|`, and each label has a column `probability_<label>`, empty if the answer does not have it. An image's size
    becomes `width` and `height`. The neighbours of a search are in
    `neighbor_1_label, neighbor_1_distance, neighbor_1_path, neighbor_2_label, …`. The columns of a head begin with its
    name and a dot. Other nested values are JSON.
    """

    def write(self, files: Sequence[Path], rows: Iterable[str], example: Answer) -> None:
        columns = ["path", "error", *flat_cells(example.fields)]
        with files[0].open("w", encoding="utf-8", newline="") as file:
            write = csv.writer(file, lineterminator="\n").writerow
            write_quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow
            write(columns)
            for cells in map(flat_cells, map(json.loads, rows)):
                row = [cells.get(column, "") for column in columns]
                # csv does not quote carriage returns before Python 3.13.
                (write_quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else write)(row)


def flat_cells(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CSV cells of an answer's fields, by column."""
    cells: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            cells |= {f"{key}.{inner}": cell for inner, cell in flat_cells(value).items()}
        elif not isinstance(value, list):
            cells[key] = value
        elif key == "size":
            cells |= dict(zip(("width", "height"), value, strict=True))
        elif key == "labels":
            cells[key] = "|".join(value)
        elif key == "neighbors":
            for rank, entry in enumerate(value, 1):
                cells |= {f"neighbor_{rank}_{name}": cell for name, cell in entry.items()}
        elif key == "objects" or not all(isinstance(entry, dict) and "label" in entry for entry in value):
            cells[key] = json.dumps(value, ensure_ascii=False)
        elif "labels" in fields:
            cells |= {f"{name}_{entry['label']}": entry[name] for entry in value for name in entry if name != "label"}
        else:
            for rank, entry in enumerate(value, 1):
                cells |= {f"{name}_{rank}" if rank > 1 else name: cell for name, cell in entry.items()}
    return cells


class Embeddings(OutputFormat):
    """`.npy`: embeddings of all answered images, float32 [N, D]; `<stem>.paths.json` lists their N paths.

    Images without an answer have no row. The embeddings of several heads are concatenated in the order of the heads.
    """

    def check(self, path: Path, example: Answer) -> None:
        if example.embedding is None:
            raise InputError(
                f"{path}: the format is for embeddings, but this model's answers have none; use .jsonl or .parquet",
                code="output.no_embeddings",
            )

    def files(self, path: Path) -> Sequence[Path]:
        """The names come first, because vectors without names are useless."""
        return [path.with_suffix(".paths.json"), path]

    def write(self, files: Sequence[Path], rows: Iterable[str], example: Answer) -> None:
        count, size = 0, len(example.embedding) if example.embedding is not None else 0
        with files[0].open("w", encoding="utf-8") as names, files[1].open("wb") as vectors:
            header = {"descr": "<f4", "fortran_order": False}
            npy.write_array_header_1_0(vectors, {**header, "shape": (0, size)})
            for row in map(json.loads, rows):
                if "error" not in row:
                    vectors.write(np.array(list(_embedding_values(row)), "<f4").tobytes())
                    names.write((",\n" if count else "[\n") + json.dumps(row["path"], ensure_ascii=False))
                    count += 1
            names.write("\n]" if count else "[]")
            vectors.seek(0)  # the header has the same length, because numpy reserves space for any N
            npy.write_array_header_1_0(vectors, {**header, "shape": (count, size)})


def _embedding_values(fields: Mapping[str, Any]) -> Iterator[float]:
    """Yield the values of an answer's embedding, or of the embeddings of its heads."""
    for key, value in fields.items():
        if key == "embedding" and isinstance(value, list):
            yield from value
        elif isinstance(value, dict):
            yield from _embedding_values(value)


class Parquet(OutputFormat):
    """`.parquet`: columns path, error, and the answer's fields; lists of numbers, such as embeddings, are float32.

    pyarrow writes it, which is imported on first use.
    """

    def check(self, path: Path, example: Answer) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - checks that it is installed
        except ModuleNotFoundError as error:
            raise InputError(
                f"{path}: Parquet needs pyarrow; install it with: pip install 'tritonkit[parquet]'",
                code="install.missing_module",
            ) from error

    def write(self, files: Sequence[Path], rows: Iterable[str], example: Answer) -> None:
        from pyarrow import Table, array, field, schema, string
        from pyarrow.parquet import ParquetWriter

        # The columns must be known before the first row, whose fields may be empty.
        answer_fields = [field(column.name, _with_float32(column.type)) for column in array([example.fields]).type]
        columns = schema([field("path", string(), nullable=False), field("error", string()), *answer_fields])
        parsed_rows = map(json.loads, rows)
        with ParquetWriter(files[0], columns) as writer:
            while chunk := list(itertools.islice(parsed_rows, ROW_GROUP)):
                writer.write_table(Table.from_pylist(chunk, columns))


def _with_float32(arrow_type: Any) -> Any:
    """Return the type with float32 for lists of float64."""
    from pyarrow import field, float32, list_, struct, types

    if types.is_list(arrow_type):
        return list_(float32() if types.is_float64(arrow_type.value_type) else _with_float32(arrow_type.value_type))
    if types.is_struct(arrow_type):
        return struct([field(inner.name, _with_float32(inner.type)) for inner in arrow_type])
    return arrow_type


FORMATS: dict[str, OutputFormat] = {
    ".jsonl": JsonLines(),
    ".csv": Csv(),
    ".parquet": Parquet(),
    ".npy": Embeddings(),
}
