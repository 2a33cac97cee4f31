"""The journal of a job: its rows as JSON lines, each written when it has come, in `<output>.partial`.

Whenever the client is killed, the journal holds whole rows and perhaps the beginning of one, which is cut off when it
is opened again. It is brought to the disk every second, so that no more is lost when the machine itself fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from client.infer import Row
from client.outputs.formats.base import Heading, Told
from client.outputs.formats.json_lines import heading_of, line_of, rows_of
from client.outputs.names import Names
from model.errors import InputError, OutsideError

_SYNC_S = 1.0


class Journal:
    """An open journal that no other client writes to."""

    def __init__(self, path: Path) -> None:
        """Open or begin the journal of the output `path`, and cut a torn row off.

        Raises InputError for a folder that cannot be written to, and when another client is at it.
        """
        self.path = path.with_name(f"{path.name}.partial")
        self.answered = self.failed = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self.path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        self._size = 0
        self._synced = time.monotonic()
        self.names = Names(self._recovered())

    @property
    def length(self) -> int:
        """How many rows it has."""
        return self.answered + self.failed

    def write(self, row: Row) -> None:
        """Append a row. Raises OutsideError when the disk is full; the journal then ends with the row before."""
        line = line_of(row.as_json())
        try:
            _write_all(self._file, line)
            if time.monotonic() - self._synced > _SYNC_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OutsideError(
                f"{self.path}: cannot be written ({error.strerror}); make room, and go on with the same command"
            ) from error
        self._size += len(line)
        self._count(failed=row.answer is None)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def rows(self) -> Iterator[Told]:
        """The rows, in order, one in memory at a time."""
        return rows_of(self.path)

    def forget_failed(self) -> None:
        """Drop the rows without an answer, so that those pictures are no longer known."""
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
        """Delete it; what it held stands elsewhere, or there was nothing."""
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
        """The names of whole rows, which are counted; all after them is cut off."""
        with self.path.open("rb") as lines:
            for line in lines:
                heading = heading_of(line)
                if heading is None:
                    break
                self._size += len(line)
                self._count(heading.failed)
                yield heading.name
        os.ftruncate(self._file, self._size)

    def _count(self, failed: bool) -> None:
        if failed:
            self.failed += 1
        else:
            self.answered += 1


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
