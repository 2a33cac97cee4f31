"""Content of a picture: a download, buffered bytes, a part of a file, or an error."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from weakref import ref

from tritonkit.errors import ExternalError
from tritonkit.images.preprocess import ImageError

MAX_MEMORY_BYTES = 256 * 2**20
"""Limit of the buffered content in memory."""
_MAX_FILE_BYTES = 256 * 2**20
"""Size after which a new temporary file is started. A file's disk space is freed with its last content."""


@dataclass(frozen=True, slots=True)
class FailedContent:
    """Content that could not be read."""

    reason: str

    def __call__(self) -> bytes:
        """Raise ImageError with the reason."""
        raise ImageError(self.reason)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Content of a remote file, which is slow to read."""

    read: Callable[[], bytes]

    def __call__(self) -> bytes:
        """Return the bytes. Raises ImageError."""
        return self.read()


class SharedFile:
    """A file that several threads read at different offsets. It is closed with its last reference."""

    def __init__(self, file: BinaryIO) -> None:
        """file: must have a file descriptor."""
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset` on. Raises OSError."""
        chunks = []
        while size > 0 and (chunk := os.pread(self._file.fileno(), size, offset)):
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return b"".join(chunks)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at `offset`. Raises OSError."""
        remaining = memoryview(data)
        while remaining:
            written = os.pwrite(self._file.fileno(), remaining, offset)
            offset, remaining = offset + written, remaining[written:]

    def __del__(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Content that is a part of a file."""

    file: SharedFile
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Return the bytes. Raises ImageError."""
        try:
            data = self.file.read(self.offset, self.size)
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror})") from error
        if len(data) < self.size:
            raise ImageError(f"the archive is truncated, {self.size - len(data):,} bytes are missing")
        return data


class SpillBuffer:
    """Buffers content that was read before it is needed: in memory up to a limit, then in temporary files."""

    def __init__(self, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        """max_memory_bytes: limit of the content in memory."""
        self._max_memory_bytes = max_memory_bytes
        self._memory_bytes = 0
        # Reentrant: storing content may delete other content in the same thread, which calls `release`.
        self._lock = threading.RLock()
        self._file_ref: ref[SharedFile] | None = None
        """The last temporary file. Only the content in it keeps it open."""
        self._file_end = 0

    def store(self, data: bytes) -> Callable[[], bytes]:
        """Store bytes and return a function that returns them. The space is freed when that function is deleted.

        Raises ExternalError if a temporary file cannot be written.
        """
        size = len(data)
        with self._lock:
            if self._memory_bytes + size <= self._max_memory_bytes:
                self._memory_bytes += size
                return _InMemory(data, self)
        try:
            with self._lock:
                file = self._file_ref() if self._file_ref else None
                if file is None or self._file_end >= _MAX_FILE_BYTES:  # a file for each content would be too many
                    file = SharedFile(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - closed by SharedFile
                    self._file_ref, self._file_end = ref(file), 0
                offset, self._file_end = self._file_end, self._file_end + size
            file.write(offset, data)
        except OSError as error:
            raise ExternalError(
                f"the temporary folder: buffered content cannot be written ({error.strerror}); "
                "free disk space, or set TMPDIR to another folder",
                code="system.temporary_folder",
            ) from error
        return FileSlice(file, offset, size)

    def release(self, size: int) -> None:
        """Free this number of bytes in memory."""
        with self._lock:
            self._memory_bytes -= size


class _InMemory:
    def __init__(self, data: bytes, buffer: SpillBuffer) -> None:
        self._data = data
        self._buffer = buffer

    def __call__(self) -> bytes:
        return self._data

    def __del__(self) -> None:
        self._buffer.release(len(self._data))
