"""Where `builder` prepares what it publishes, and what an interrupted one leaves there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def staging_folder(repository: Path) -> Path:
    """Where versions are prepared: beside the repository, on the same file system."""
    resolved = repository.resolve()
    return resolved.parent / f".{resolved.name}.staging"


def leftovers(repository: Path) -> list[Path]:
    """Folders that an interrupted builder left in the staging folder; none while a builder is at work there."""
    folder = staging_folder(repository)
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [] if found and _is_locked(repository) else found


def _is_locked(repository: Path) -> bool:
    """Whether a builder holds its lock, which is on the repository's folder. Asked by a lock given back at once."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
