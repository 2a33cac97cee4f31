"""The kinds of files that answers are written to, by the ending of the file's name."""

from __future__ import annotations

from client.outputs.formats.base import Earlier, Format, Heading, RowFields
from client.outputs.formats.csv import Csv
from client.outputs.formats.json_lines import JsonLines
from client.outputs.formats.npy import Embeddings, paths_beside
from client.outputs.formats.parquet import Parquet

__all__ = ["FORMATS", "Earlier", "Format", "Heading", "RowFields", "paths_beside"]

FORMATS: dict[str, Format] = {".jsonl": JsonLines(), ".csv": Csv(), ".parquet": Parquet(), ".npy": Embeddings()}
