"""What killed clients leave: files that they had not finished, under names that `model.files.written_beside` gives."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

import psutil


def sweep(path: Path) -> None:
    """Delete what clients that are no more left of the file `path`."""
    _delete(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))


def sweep_folder(folder: Path) -> None:
    """Delete what clients that are no more left of files anywhere below a folder."""
    _delete(folder.rglob(".*.partial"))


def _delete(found: Iterable[Path]) -> None:
    for path in found:
        process = path.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)
