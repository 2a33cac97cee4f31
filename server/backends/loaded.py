"""Tells the backends of one Triton which models the others have loaded: each writes a file for each loaded version.

A file is locked by the process that wrote it, so a crashed process leaves nothing behind that counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

FOLDER_VARIABLE = "TRITONKIT_LOADED"
"""The folder of these files. Without it, nothing is written and nothing is found."""


class LoadedVersion(NamedTuple):
    """A loaded version of a model."""

    backend: Path
    """The folder with the `model.py` that runs it."""
    args: dict[str, str]
    """Triton's arguments of `initialize`."""


class Announcement:
    """The file of one loaded version; `withdraw` removes it."""

    def __init__(self, backend: Path, args: dict[str, str]) -> None:
        root = os.environ.get(FOLDER_VARIABLE)
        self._path, self._file = None, None
        if root:
            folder = Path(root) / args["model_name"]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path = folder / f"{args['model_version']}.{os.getpid()}"
            temporary = folder / f".{self._path.name}"
            self._file = temporary.open("w", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            json.dump({"backend": str(backend), "args": args}, self._file)
            self._file.flush()
            temporary.rename(self._path)

    def withdraw(self) -> None:
        """Remove the file."""
        if self._path is not None and self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()


def newest_file(model: str) -> Path | None:
    """Return the file of a model's highest loaded version, which an ensemble would call; None without one."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    folder = Path(root) / model
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208 - for each batch
    except FileNotFoundError:
        return None
    for name in sorted(names, key=lambda name: tuple(map(int, name.split("."))), reverse=True):
        with suppress(FileNotFoundError), (folder / name).open(encoding="utf-8") as file:  # withdrawn meanwhile
            if _is_locked(file):
                return folder / name
    return None


def read_file(path: Path) -> LoadedVersion | None:
    """Read a file that `newest_file` returned; None if it was withdrawn meanwhile."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return LoadedVersion(Path(document["backend"]), document["args"])


def _is_locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
