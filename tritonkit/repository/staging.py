"""The folder in which `builder` prepares versions, and what an interrupted builder left there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonkit.errors import ArtifactError


def staging_folder(repository: Path) -> Path:
    """Return the staging folder: next to the repository, on the same file system."""
    resolved = repository.resolve()
    return resolved.parent / f".{resolved.name}.staging"


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Keep builders from publishing to a repository while the block runs. Raises ArtifactError if one does."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when this process ends
        except BlockingIOError as error:
            raise ArtifactError(
                f"{repository}: a builder is publishing here; try again when it has finished",
                code="repository.locked",
            ) from error
        yield
    finally:
        os.close(descriptor)


def interrupted_exports(repository: Path) -> list[Path]:
    """Return the folders that an interrupted builder left in the staging folder; empty while a builder is running."""
    folder = staging_folder(repository)
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not folders:
        return []
    descriptor = os.open(repository, os.O_RDONLY)
    try:  # a builder holds a lock on the repository's folder; this one is released at once
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return []
    finally:
        os.close(descriptor)
    return folders
