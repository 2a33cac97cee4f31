"""The journal of a job: its rows as JSON lines, each written when it has come, in `<output>.partial`.

Whenever the client is killed, the journal holds whole rows and perhaps the beginning of one, which is cut off when the
job goes on. It is brought to the disk every second, so that no more is lost when the machine itself fails.

Who holds the journal's lock is at the job. The other outputs of a job are claimed by the same lock, on journals that
stay empty, so that no two jobs write one file.
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
from client.outputs.formats.base import Heading, RowFields
from client.outputs.formats.json_lines import heading_of, line_of, rows_of
from client.outputs.names import Names
from model.errors import ExternalError, InputError, TritonkitError, is_outside

_SYNC_S = 1.0
_ROW_BEGINS = b'{"path": '
_LOOKED_AT = 4096


def journal_beside(path: Path) -> Path:
    """The file that holds the journal of an output."""
    return path.with_name(f"{path.name}.partial")


class Journal:
    """An open journal that no other client writes to."""

    def __init__(self, path: Path) -> None:
        """Open or begin the journal of the output `path`; nothing in it is changed yet.

        Raises InputError for a folder that cannot be written to, when another client is at it, and for a file of this
        name that is no journal.
        """
        self.path = journal_beside(path)
        self.answered = self.failed = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self.path)
        except OSError as error:
            raise _not_written(path, error) from error
        self._size = 0
        self._synced = time.monotonic()
        try:
            self.names = Names(self._recovered())
            self._check_is_one()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, not even a torn row."""
        return os.fstat(self._file).st_size == 0

    @property
    def length(self) -> int:
        """How many rows it has."""
        return self.answered + self.failed

    def write(self, row: Row) -> None:
        """Append a row. Raises ExternalError when the disk is full; the journal then ends with the row before."""
        line = line_of(row.as_json())
        try:
            _write_all(self._file, line)
            if time.monotonic() - self._synced > _SYNC_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise ExternalError(
                f"{self.path}: cannot be written ({error.strerror}); make room, and go on with the same command"
            ) from error
        self._size += len(line)
        self._count(failed=row.answer is None)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def rows_kept(self) -> int:
        """How many rows stand there now: an interrupt may have come between a row and its count."""
        try:
            with self.path.open("rb") as lines:
                return sum(line.endswith(b"\n") for line in lines)
        except FileNotFoundError:  # it has become an output
            return 0

    def rows(self) -> Iterator[RowFields]:
        """The rows, in order, one in memory at a time."""
        return rows_of(self.path)

    def cut_torn(self) -> None:
        """Cut off what stands after the last whole row. It must be known that the journal is the job's."""
        os.ftruncate(self._file, self._size)

    def forget_failed(self) -> None:
        """Drop the rows without an answer, so that those pictures are no longer known. Nothing in it is torn."""
        if not self.failed:
            return
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        with beside.open("wb") as kept, self.path.open("rb") as lines:
            kept.writelines(line for line in lines if not _known(line).failed)
        # Locked before it takes the journal's place: at no moment could another client have it.
        file = _locked(beside)
        os.fsync(file)
        beside.replace(self.path)
        os.close(self._file)
        self._file = file
        self.answered = self.failed = self._size = 0
        self.names = Names(self._recovered())

    def clear(self) -> None:
        """Forget all rows."""
        os.ftruncate(self._file, 0)
        self.answered = self.failed = self._size = 0
        self.names = Names()

    def remove(self) -> None:
        """Delete it; all it held stands elsewhere, or it is empty."""
        if _is(self._file, self.path):  # else it has become an output, and another client may have begun a journal
            self.path.unlink()

    def become(self, path: Path) -> None:
        """Take the place of the file `path`: it is one of JSON lines."""
        self.sync()
        self.path.replace(path)

    def close(self) -> None:
        """Let other clients have it. What cannot be brought to the disk any more was reported when it was written."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def _recovered(self) -> Iterator[str]:
        """The names of whole rows up to the first that is none, which are counted."""
        with self.path.open("rb") as lines:
            for line in lines:
                heading = heading_of(line)
                if heading is None:
                    break
                self._size += len(line)
                self._count(heading.failed)
                yield heading.name

    def _check_is_one(self) -> None:
        """Without a whole row it must look like one torn row, or like what a failed machine leaves: zeros."""
        if self.length or self.is_empty:
            return
        with self.path.open("rb") as file:
            line = file.readline(_LOOKED_AT)
        is_torn = line.startswith(_ROW_BEGINS) or _ROW_BEGINS.startswith(line)
        if line.endswith(b"\n") or not (is_torn or not line.strip(b"\0")):
            raise InputError(
                f"{self.path}: is no journal of answers, and the name is needed for one; "
                "move the file away, or give another --output"
            )

    def _count(self, failed: bool) -> None:
        if failed:
            self.failed += 1
        else:
            self.answered += 1


@contextmanager
def claimed(paths: Iterable[Path]) -> Iterator[None]:
    """Keep other clients from the outputs of a job besides its first.

    Raises InputError for a folder that cannot be written to, and when another job has one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.callback(_Claim(path).release)
        yield


class _Claim:
    """An output that is claimed by a lock on the journal that a job of its own would have."""

    def __init__(self, path: Path) -> None:
        self._path = journal_beside(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self._path)
        except OSError as error:
            raise _not_written(path, error) from error
        if os.fstat(self._file).st_size:
            os.close(self._file)
            raise InputError(
                f"{self._path}: holds rows of another job that was to write {path.name}; go on with that job, "
                "move the file away, or give another --output"
            )

    def release(self) -> None:
        if _is(self._file, self._path):
            self._path.unlink()
        os.close(self._file)


def _not_written(path: Path, error: OSError) -> TritonkitError:
    kind = ExternalError if is_outside(error) else InputError
    return kind(f"{path}: cannot be written ({error.strerror})")


def _known(line: bytes) -> Heading:
    heading = heading_of(line)
    if heading is None:
        raise InputError("the journal was changed by somebody else while it was read")
    return heading


def _locked(path: Path) -> int:
    """A descriptor to append to `path`, which this process alone holds. Raises InputError when another does."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise InputError(
                f"{path}: another client is writing it; wait until that has ended, or give another --output"
            ) from error
        if _is(file, path):
            return file
        os.close(file)


def _is(file: int, path: Path) -> bool:
    """Whether `path` still leads to the open file: whoever held it before may have finished, and taken it away."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
