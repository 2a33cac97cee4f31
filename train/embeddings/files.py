"""The files that hold vectors with their paths, labels and answers: `.npz`, `.npy` or `.parquet`."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.embeddings.vectors import ImageVectors
from tritonkit.errors import InputError
from tritonkit.system.files import atomic_write, check_can_write


def check_vector_file(path: Path) -> None:
    """Check that vectors can be written to a file of this name. Raises InputError."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(WRITERS)}", code="output.format")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{path}: Parquet needs pyarrow; install it with: pip install 'tritonkit[parquet]'",
            code="install.missing_module",
        )
    check_can_write(path)


def write_vectors(path: Path, embeddings: ImageVectors) -> None:
    """Write the vectors in the format that the suffix of the path names, atomically."""
    WRITERS[path.suffix](path, embeddings)


def _npz(path: Path, embeddings: ImageVectors) -> None:
    """Arrays `embedding` float32 [N, D], and `path`, `label`, `answer` as text [N]; an unknown label is empty."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            embedding=embeddings.vectors,
            path=np.array([str(picture.path) for picture in embeddings.pictures]),
            label=np.array([picture.label or "" for picture in embeddings.pictures]),
            answer=np.array(embeddings.answers),
        )


def _npy(path: Path, embeddings: ImageVectors) -> None:
    """float32 [N, D] and `<stem>.paths.json`, as `client infer` writes them; and `<stem>.csv` with the labels."""
    paths = [str(picture.path) for picture in embeddings.pictures]
    # The names come first, because vectors without names are useless.
    with atomic_write(path.with_suffix(".paths.json")) as temporary:
        temporary.write_text(json.dumps(paths, ensure_ascii=False, indent=0), encoding="utf-8")
    with atomic_write(path.with_suffix(".csv")) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "label", "answer"))
        labels = [picture.label or "" for picture in embeddings.pictures]
        rows.writerows(zip(paths, labels, embeddings.answers, strict=True))
    with atomic_write(path) as temporary, temporary.open("wb") as vectors:
        np.save(vectors, embeddings.vectors)


def _parquet(path: Path, embeddings: ImageVectors) -> None:
    """Columns path, label, answer, and embedding as a list of float32, as `client infer` writes it."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = pa.table(
        {
            "path": pa.array([str(picture.path) for picture in embeddings.pictures], pa.string()),
            "label": pa.array([picture.label for picture in embeddings.pictures], pa.string()),
            "answer": pa.array([answer or None for answer in embeddings.answers], pa.string()),
            "embedding": pa.array(list(embeddings.vectors), pa.list_(pa.float32())),
        }
    )
    with atomic_write(path) as temporary:
        parquet.write_table(columns, temporary)


WRITERS: dict[str, Callable[[Path, ImageVectors], None]] = {".npz": _npz, ".npy": _npy, ".parquet": _parquet}
