"""Atomic file writes, and checks of output paths before the work begins."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from tritonkit.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an error.

    Raises OSError that names `path` if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries write files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # Libraries leave out the name, or the number too.
        if type(error) is OSError and error.errno is None:
            raise OSError(errno.EIO, str(error), str(path)) from error
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def delete_partial_files(paths: Iterable[Path]) -> None:
    """Delete temporary files that killed processes left in `atomic_write`; those of running processes stay."""
    import psutil

    for path in paths:
        process_id = path.name.split(".")[-2]
        if process_id.isdecimal() and not psutil.pid_exists(int(process_id)):
            path.unlink(missing_ok=True)


def check_can_write(*paths: Path | None) -> None:
    """Check that output files can be written, before the work begins. None is ignored. Raises InputError."""
    for path in filter(None, paths):
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected the name of a file to write", code="output.is_folder")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(
                f"{path}: cannot be written: {folder} is not a folder, or you have no permission to write to it",
                code="output.not_writable",
            )


def check_is_html(path: Path | None) -> None:
    """Check that the name of an HTML page ends in `.html`. None is ignored. Raises InputError."""
    if path is not None and path.suffix != ".html" and not path.is_dir():
        raise InputError(f"{path}: expected a name that ends in .html", code="output.not_html")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def as_unicode(path: PurePath | str) -> str:
    """Return a path in valid Unicode. JSON and databases require valid Unicode, file names do not."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
