"""The formats of answer files, by the suffix of the file name."""

from __future__ import annotations

from client.outputs.formats.base import EarlierOutput, Heading, OutputFormat, RowFields
from client.outputs.formats.csv import Csv
from client.outputs.formats.json_lines import JsonLines
from client.outputs.formats.npy import Embeddings, paths_file
from client.outputs.formats.parquet import Parquet

__all__ = ["FORMATS", "EarlierOutput", "Heading", "OutputFormat", "RowFields", "paths_file"]

FORMATS: dict[str, OutputFormat] = {".jsonl": JsonLines(), ".csv": Csv(), ".parquet": Parquet(), ".npy": Embeddings()}
