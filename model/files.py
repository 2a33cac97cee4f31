"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path next to `path` to write to; it takes `path`'s place when the block ends without an error.

    Raises OSError that names `path` where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)  # some libraries write files that only their owner can read
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        if (named := _naming(error, beside, path)) is error:
            raise
        raise named from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _naming(error: OSError, beside: Path, path: Path) -> OSError:
    """The error with the name of the file that was to be written; libraries leave out the name, or the number too."""
    if type(error) is OSError and error.errno is None:
        return OSError(errno.EIO, str(error), str(path))
    if error.errno is None or error.filename not in (None, str(beside)):
        return error
    return OSError(error.errno, error.strerror, str(path))


def check_can_write(*paths: Path | None) -> None:
    """Find out before the work whether its results can be written. Raises InputError; None is no path."""
    for path in filter(None, paths):
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file to write")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{path}: cannot be written, {folder} is no folder that one may write to")


def check_is_html(path: Path | None) -> None:
    """Refuse to write a page under another name. Raises InputError; None is no path."""
    if path is not None and path.suffix != ".html" and not path.is_dir():
        raise InputError(f"{path}: is to be a page; end its name in .html")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
