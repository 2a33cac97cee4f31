"""Delete unfinished files of killed clients; `tritonkit.system.files.atomic_write` gives them their names."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

import psutil


def delete_stale_files(path: Path) -> None:
    """Delete the unfinished copies of `path` whose processes no longer run."""
    _delete(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))


def delete_stale_files_below(folder: Path) -> None:
    """Delete the unfinished files below a folder whose processes no longer run."""
    _delete(folder.rglob(".*.partial"))


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        process_id = path.name.split(".")[-2]
        if process_id.isdecimal() and not psutil.pid_exists(int(process_id)):
            path.unlink(missing_ok=True)
