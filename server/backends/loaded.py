"""Tells the backends of one Triton which models the others have loaded: each writes a file for each loaded version.

A file is locked by the process that wrote it, so a crashed process leaves nothing behind that counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

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


class NewestVersion:
    """Follows the highest loaded version of a model, which an ensemble would call."""

    def __init__(self, model: str) -> None:
        root = os.environ.get(FOLDER_VARIABLE)
        self._folder = Path(root) / model if root else None
        self._changed_ns = 0
        self._file: TextIO | None = None
        self._version: LoadedVersion | None = None

    def read(self) -> LoadedVersion | None:
        """Return the version, the same object as long as it stays; None where no version is loaded."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns if self._folder else 0
        except FileNotFoundError:
            changed_ns = 0
        if changed_ns != self._changed_ns or self._file is None or not _is_locked(self._file):
            self._changed_ns = changed_ns
            self._find(list(self._folder.glob("[0-9]*")) if self._folder and changed_ns else [])
        return self._version

    def _find(self, paths: list[Path]) -> None:
        """Open the highest file that is locked."""
        for path in sorted(paths, key=lambda path: tuple(map(int, path.name.split("."))), reverse=True):
            if self._file is not None and path == Path(self._file.name) and _is_locked(self._file):
                return
            with suppress(FileNotFoundError):  # withdrawn meanwhile
                file = path.open(encoding="utf-8")
                if _is_locked(file):
                    document = json.load(file)
                    self._close()
                    self._file, self._version = file, LoadedVersion(Path(document["backend"]), document["args"])
                    return
                file.close()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._version = None


def _is_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
