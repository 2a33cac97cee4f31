"""Parquet: columns path, error, and the answer's fields; lists of numbers, such as embeddings, are float32."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.outputs.formats.base import EarlierOutput, Heading, OutputFormat, RowFields
from tritonkit.errors import InputError
from tritonkit.tasks import Answer

ROW_GROUP = 1000
"""Rows that are collected in memory and written together."""


class Parquet(OutputFormat):
    """`.parquet`, written by pyarrow, which is imported on first use."""

    def check(self, path: Path, example: Answer) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - checks that it is installed
        except ModuleNotFoundError as error:
            raise InputError(
                f"{path}: Parquet needs pyarrow; install it with: pip install 'tritonkit[parquet]'",
                code="install.missing_module",
            ) from error

    def headings(self, path: Path) -> Iterator[Heading]:
        for row in _read_rows(path, ["path", "error"]):
            yield Heading(row["path"], row["error"] is not None)

    def write(
        self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: EarlierOutput | None
    ) -> None:
        from pyarrow import Table
        from pyarrow.parquet import ParquetWriter

        schema = _schema(example.fields)
        kept_rows = (row for row in _read_rows(earlier.path) if earlier.keeps_row(row["path"])) if earlier else iter(())
        all_rows = itertools.chain(kept_rows, rows)
        with ParquetWriter(files[0], schema) as writer:
            while chunk := list(itertools.islice(all_rows, ROW_GROUP)):
                writer.write_table(Table.from_pylist(chunk, schema))


def _read_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, KeyError) as error:
        raise InputError(
            f"{path}: is not a Parquet file of answers ({error}); start over with --overwrite", code="output.unreadable"
        ) from error


def _schema(fields: Mapping[str, Any]) -> Any:
    """Return the columns of an answer's fields; they must be known before the first row, whose fields may be empty."""
    import pyarrow

    columns = pyarrow.array([dict(fields)]).type
    text = [pyarrow.field("path", pyarrow.string(), nullable=False), pyarrow.field("error", pyarrow.string())]
    return pyarrow.schema([*text, *(pyarrow.field(field.name, _with_float32(field.type)) for field in columns)])


def _with_float32(arrow_type: Any) -> Any:
    """Return the type with float32 for lists of float64."""
    from pyarrow import field, float32, list_, struct, types

    if types.is_list(arrow_type):
        return list_(float32() if types.is_float64(arrow_type.value_type) else _with_float32(arrow_type.value_type))
    if types.is_struct(arrow_type):
        return struct([field(inner.name, _with_float32(inner.type)) for inner in arrow_type])
    return arrow_type
