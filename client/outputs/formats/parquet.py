"""Parquet: columns path, error, and what is told; numbers of a list, such as an embedding, as float32."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.outputs.formats.base import Earlier, Format, Heading, RowFields
from model.errors import InputError
from model.tasks import Answer

ROW_GROUP = 1000
"""Rows that are held in memory and written together."""


class Parquet(Format):
    """`.parquet`, by pyarrow, which is loaded when it is needed."""

    def check(self, path: Path, example: Answer) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - here to find out whether it is there
        except ModuleNotFoundError as error:
            raise InputError(
                f"{path}: Parquet is written with pyarrow; install it with: pip install 'tritonkit[parquet]'"
            ) from error

    def headings(self, path: Path) -> Iterator[Heading]:
        for row in _rows(path, ["path", "error"]):
            yield Heading(row["path"], row["error"] is not None)

    def write(self, files: Sequence[Path], rows: Iterable[RowFields], example: Answer, earlier: Earlier | None) -> None:
        from pyarrow import Table
        from pyarrow.parquet import ParquetWriter

        schema = _schema(example.fields)
        kept = (row for row in _rows(earlier.path) if earlier.stays(row["path"])) if earlier else iter(())
        everything = itertools.chain(kept, rows)
        with ParquetWriter(files[0], schema) as writer:
            while held := list(itertools.islice(everything, ROW_GROUP)):
                writer.write_table(Table.from_pylist(held, schema))


def _rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, KeyError) as error:
        raise InputError(f"{path}: no Parquet file of answers ({error}); --overwrite starts over") from error


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
