"""Files of answers, written as the rows come: JSON lines, embeddings as a numpy array, columns as Parquet.

Each is opened for one model, of which an example of an answer is known: an answer with something in every place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from numpy.lib import format as npy

from client.infer import Row
from model.errors import InputError
from model.files import written_beside
from model.tasks import Answer

Write: TypeAlias = Callable[[Row], None]
Opener: TypeAlias = Callable[[Path, Answer], AbstractContextManager[Write]]

ROW_GROUP = 1000
"""Rows of a Parquet file that are held in memory and written together."""


@contextmanager
def json_lines(path: Path, example: Answer) -> Iterator[Write]:
    """One JSON object a line.

    Written to `<path>.partial`, which takes `path`'s place at the end; after an error it stays as far as it came.
    Raises InputError for a folder that cannot be written to.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error

    def write(row: Row) -> None:
        file.write(json.dumps(row.as_json(), ensure_ascii=False) + "\n")
        file.flush()  # so that it can be followed

    with file:
        yield write
    partial.replace(path)


@contextmanager
def embeddings(path: Path, example: Answer) -> Iterator[Write]:
    """The embeddings of all answered pictures as float32 [N, D], and beside it `<stem>.paths.json`, a list of N paths.

    Raises InputError for a model whose answers have no embedding.
    """
    if example.embedding is None:
        raise InputError(f"{path}: holds embeddings, but this model's answers have none; write .jsonl or .parquet")
    size = len(example.embedding)
    names: list[str] = []
    with written_beside(path) as beside, beside.open("wb") as file:
        _npy_header(file, (0, size))

        def write(row: Row) -> None:
            if row.answer is not None and row.answer.embedding is not None:
                file.write(row.answer.embedding.astype("<f4").tobytes())
                names.append(row.name)

        yield write
        file.seek(0)
        _npy_header(file, (len(names), size))  # as long as before: numpy leaves room for any N
        file.flush()
        with written_beside(paths_beside(path)) as listed:
            listed.write_text(json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8")


def paths_beside(path: Path) -> Path:
    """The file that names the rows of an `.npy` file."""
    return path.with_suffix(".paths.json")


@contextmanager
def parquet(path: Path, example: Answer) -> Iterator[Write]:
    """Columns path, error, and what is told; numbers of a list, such as an embedding, as float32.

    Raises InputError when pyarrow is missing.
    """
    try:
        from pyarrow.parquet import ParquetWriter
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: Parquet is written with pyarrow; install it with: pip install 'tritonkit[parquet]'"
        ) from error
    held: list[dict[str, Any]] = []
    schema = _schema(example.told)
    with written_beside(path) as beside, ParquetWriter(beside, schema) as writer:

        def flush() -> None:
            if held:
                writer.write_table(_table(held, schema))
                held.clear()

        def write(row: Row) -> None:
            held.append(_exact(row))
            if len(held) == ROW_GROUP:
                flush()

        yield write
        flush()


OUTPUTS: dict[str, Opener] = {".jsonl": json_lines, ".npy": embeddings, ".parquet": parquet}
"""What can be written, by the ending of the file's name."""


def _npy_header(file: Any, shape: tuple[int, int]) -> None:
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _exact(row: Row) -> dict[str, Any]:
    """The row as told, with an embedding's own digits, which JSON rounds."""
    told = row.as_json()
    if row.answer is not None and row.answer.embedding is not None and "embedding" in told:
        told["embedding"] = row.answer.embedding
    return told


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema)


def _schema(told: Mapping[str, Any]) -> Any:
    """The columns of what is told. They must be known before the first row, which may have nothing in some of them."""
    import pyarrow

    fields = pyarrow.array([dict(told)]).type
    text = [pyarrow.field("path", pyarrow.string(), nullable=False), pyarrow.field("error", pyarrow.string())]
    return pyarrow.schema([*text, *(pyarrow.field(field.name, _compact(field.type)) for field in fields)])


def _compact(kind: Any) -> Any:
    """The type with float32 where it has lists of float64."""
    from pyarrow import field, float32, list_, struct, types

    if types.is_list(kind):
        return list_(float32() if types.is_float64(kind.value_type) else _compact(kind.value_type))
    if types.is_struct(kind):
        return struct([field(inner.name, _compact(inner.type)) for inner in kind])
    return kind
