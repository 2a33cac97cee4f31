"""What a picture's content can be: something to fetch, something held ready, or the reason why there is none."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from weakref import ref

from model.errors import ExternalError
from model.preprocess import ImageError

HELD_BYTES = 256 * 2**20
"""What may be held in memory of pictures that had to be read before their turn."""
_SPILL_BYTES = 256 * 2**20
"""After which a new temporary file is begun: the disk gets a file's room back when its last content is forgotten."""


@dataclass(frozen=True, slots=True)
class FailedContent:
    """Content that there is none of."""

    reason: str

    def __call__(self) -> bytes:
        """Raises ImageError."""
        raise ImageError(self.reason)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Content that lies elsewhere: reading it is mostly waiting."""

    read: Callable[[], bytes]

    def __call__(self) -> bytes:
        """The bytes. Raises ImageError."""
        return self.read()


class SharedFile:
    """A file that several threads read in places of their own. It is closed when nobody has it any more."""

    def __init__(self, file: BinaryIO) -> None:
        """`file` has a file descriptor."""
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from `offset` on, as many as there are up to `size`. Raises OSError."""
        pieces = []
        while size > 0 and (piece := os.pread(self._file.fileno(), size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at `offset`. Raises OSError."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            offset, left = offset + written, left[written:]

    def __del__(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Content that is a part of a file."""

    file: SharedFile
    offset: int
    size: int

    def __call__(self) -> bytes:
        """The bytes. Raises ImageError."""
        try:
            data = self.file.read(self.offset, self.size)
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror})") from error
        if len(data) < self.size:
            raise ImageError(f"the archive ends {self.size - len(data):,} bytes too early")
        return data


class SpillBuffer:
    """Holds contents that were read before their turn: in memory while there is room, then in temporary files."""

    def __init__(self, most: int = HELD_BYTES) -> None:
        """most: bytes in memory."""
        self._most = most
        self._held = 0
        # A content may be forgotten, and so be let go of, in the midst of holding another.
        self._lock = threading.RLock()
        self._spill: ref[SharedFile] | None = None
        """The last temporary file, which only its contents keep open, and where what is in it ends."""
        self._end = 0

    def hold(self, data: bytes) -> Callable[[], bytes]:
        """Content that gives these bytes, and gives its room back when it is forgotten.

        Raises ExternalError when a temporary file cannot be written.
        """
        if self._taken(len(data)):
            return _InMemory(data, self)
        try:
            file, offset = self._room_in_file(len(data))
            file.write(offset, data)
        except OSError as error:
            raise ExternalError(
                f"the temporary folder: what was read before its turn cannot be kept there ({error.strerror}); "
                "make room, or name another folder with TMPDIR"
            ) from error
        return FileSlice(file, offset, len(data))

    def _room_in_file(self, size: int) -> tuple[SharedFile, int]:
        """Room behind what was put into a file before: a file for each content would be too many open ones."""
        with self._lock:
            file = self._spill() if self._spill else None
            if file is None or self._end >= _SPILL_BYTES:
                file = SharedFile(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - closed by SharedFile
                self._end = 0
                self._spill = ref(file)
            offset, self._end = self._end, self._end + size
        return file, offset

    def _taken(self, size: int) -> bool:
        with self._lock:
            fits = self._held + size <= self._most
            self._held += size if fits else 0
        return fits

    def let_go(self, size: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self._held -= size


class _InMemory:
    def __init__(self, data: bytes, holder: SpillBuffer) -> None:
        self._data = data
        self._holder = holder

    def __call__(self) -> bytes:
        return self._data

    def __del__(self) -> None:
        self._holder.let_go(len(self._data))
