"""The journal of a job: its rows as JSON lines in `<output>.partial`, each written at once.

If the client is killed, the journal has whole rows and perhaps a torn last row, which is cut off when the job is
resumed. The journal is synced to the disk every second, so that a failing machine loses little.

The client that holds the lock of the journal owns the job. The other outputs of a job are locked through journals
that stay empty, so that no two jobs write the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.infer import Row
from client.name_set import NameSet
from client.outputs.formats.base import Heading, RowFields
from client.outputs.formats.json_lines import encode_row, parse_heading, read_rows
from tritonkit.errors import ExternalError, InputError, TritonkitError, is_external_failure

_SYNC_S = 1.0
_ROW_PREFIX = b'{"path": '
_PREFIX_BYTES = 4096


def journal_path(path: Path) -> Path:
    """Return the path of an output's journal."""
    return path.with_name(f"{path.name}.partial")


class Journal:
    """An open, locked journal."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal of the output `path`, without changing its rows.

        Raises InputError if the folder cannot be written to, if another client holds the lock, and if the file is not a
        journal.
        """
        self.path = journal_path(path)
        self.answered = self.failed = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(self.path)
        except OSError as error:
            raise _write_error(path, error) from error
        self._size = 0
        self._synced = time.monotonic()
        try:
            self.names = NameSet(self._read_names())
            self._check_is_journal()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def is_empty(self) -> bool:
        """Whether the file has no bytes, not even a torn row."""
        return os.fstat(self._file).st_size == 0

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.answered + self.failed

    def write(self, row: Row) -> None:
        """Append a row. Raises ExternalError if the disk is full; the journal then ends with the previous row."""
        line = encode_row(row.as_json())
        try:
            _write_all(self._file, line)
            if time.monotonic() - self._synced > _SYNC_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise ExternalError(
                f"{self.path}: cannot be written ({error.strerror}); free disk space and run the same command again",
                code="output.not_writable",
            ) from error
        self._size += len(line)
        self._count(failed=row.answer is None)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def count_rows(self) -> int:
        """Count the rows in the file; an interrupt may have come between a row and its count."""
        try:
            with self.path.open("rb") as lines:
                return sum(line.endswith(b"\n") for line in lines)
        except FileNotFoundError:  # it was renamed to an output
            return 0

    def rows(self) -> Iterator[RowFields]:
        """Yield the rows in order, one in memory at a time."""
        return read_rows(self.path)

    def truncate_torn_row(self) -> None:
        """Cut off what follows the last whole row. Call this only for a journal of this job."""
        os.ftruncate(self._file, self._size)

    def drop_failed(self) -> None:
        """Delete the rows without an answer, so that their images are answered again. The journal has no torn row."""
        if not self.failed:
            return
        partial_path = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        with partial_path.open("wb") as new_journal, self.path.open("rb") as lines:
            new_journal.writelines(line for line in lines if not _parse_heading_strict(line).failed)
        # Lock the new file before it replaces the journal, so that no other client can lock it in between.
        file = _open_locked(partial_path)
        os.fsync(file)
        partial_path.replace(self.path)
        os.close(self._file)
        self._file = file
        self.answered = self.failed = self._size = 0
        self.names = NameSet(self._read_names())

    def clear(self) -> None:
        """Delete all rows."""
        os.ftruncate(self._file, 0)
        self.answered = self.failed = self._size = 0
        self.names = NameSet()

    def remove(self) -> None:
        """Delete the file, after its rows were written to the outputs, or if it is empty."""
        # Otherwise it was renamed to an output, and another client may have created a new journal.
        if _is_open_file(self._file, self.path):
            self.path.unlink()

    def move_to(self, path: Path) -> None:
        """Rename the journal to the output `path`, a file of JSON lines."""
        self.sync()
        self.path.replace(path)

    def close(self) -> None:
        """Unlock and close the file. Errors of writing were reported before."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def _read_names(self) -> Iterator[str]:
        """Count whole rows and yield their names, up to the first torn row."""
        with self.path.open("rb") as lines:
            for line in lines:
                heading = parse_heading(line)
                if heading is None:
                    break
                self._size += len(line)
                self._count(heading.failed)
                yield heading.name

    def _check_is_journal(self) -> None:
        """Refuse a file without a whole row, unless it looks like one torn row, or like zeros after a power failure."""
        if self.length or self.is_empty:
            return
        with self.path.open("rb") as file:
            line = file.readline(_PREFIX_BYTES)
        is_torn = line.startswith(_ROW_PREFIX) or _ROW_PREFIX.startswith(line)
        if line.endswith(b"\n") or not (is_torn or not line.strip(b"\0")):
            raise InputError(
                f"{self.path}: is not a journal of answers, but has the name of one; "
                "move the file away, or set another --output",
                code="journal.invalid",
            )

    def _count(self, failed: bool) -> None:
        if failed:
            self.failed += 1
        else:
            self.answered += 1


@contextmanager
def lock_outputs(paths: Iterable[Path]) -> Iterator[None]:
    """Lock the other outputs of a job against other clients.

    Raises InputError if a folder cannot be written to, and if another job has one of the outputs.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.callback(_OutputLock(path).release)
        yield


class _OutputLock:
    """An output that is locked through the empty journal of its path."""

    def __init__(self, path: Path) -> None:
        self._path = journal_path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(self._path)
        except OSError as error:
            raise _write_error(path, error) from error
        if os.fstat(self._file).st_size:
            os.close(self._file)
            raise InputError(
                f"{self._path}: contains rows of another job that writes {path.name}; continue that job, "
                "move the file away, or set another --output",
                code="output.other_job",
            )

    def release(self) -> None:
        if _is_open_file(self._file, self._path):
            self._path.unlink()
        os.close(self._file)


def _write_error(path: Path, error: OSError) -> TritonkitError:
    if is_external_failure(error):
        return ExternalError(f"{path}: cannot be written ({error.strerror})", code="output.not_writable")
    return InputError(f"{path}: cannot be written ({error.strerror})", code="output.not_writable")


def _parse_heading_strict(line: bytes) -> Heading:
    heading = parse_heading(line)
    if heading is None:
        raise InputError("another program changed the journal while it was read", code="journal.changed")
    return heading


def _open_locked(path: Path) -> int:
    """Open `path` for appending and lock it. Raises InputError if another client holds the lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise InputError(
                f"{path}: another client is writing this file; wait until it ends, or set another --output",
                code="output.locked",
            ) from error
        if _is_open_file(file, path):
            return file
        os.close(file)


def _is_open_file(file: int, path: Path) -> bool:
    """Whether `path` is still the open file; the previous owner may have finished and deleted it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_all(file: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]
