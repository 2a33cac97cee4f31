"""Pictures given to a Triton on the same machine through system shared memory, instead of through its socket.

Only inputs go this way: a request that was given up may still be answered, and would write its answer over another's.
A region is unlinked as soon as the server has mapped it, so no file is left however this process ends; what the server
still maps for a process that was killed is let go by the next one.
Source: triton-inference-server/server, docs/protocol/extension_shared_memory.md.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from model.errors import DeadlineError, TritonkitError, UnreachableError
from model.patience import PASSING
from model.preprocess import ImageArray

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps what shm_open opens
PREFIX = "tritonkit-"
MIN_BYTES = 128 * 2**10
"""Below it, saying where the pictures lie costs as much as sending them."""
MAX_BYTES = 256 * 2**20
"""Of all regions together."""


class RegionRegistry(ABC):
    """A server's list of the regions that it has mapped. All methods raise what the connection raises."""

    @abstractmethod
    def register(self, region: str, size: int) -> None:
        """Have the server map the region of this name, which is also its key."""

    @abstractmethod
    def unregister(self, region: str) -> None:
        """Have the server let go of it. Refused while a request uses it."""

    @abstractmethod
    def registered(self) -> list[str]:
        """Names of all regions that it has mapped. Fails where the server cannot be trusted with regions."""


class SharedRegion:
    """Memory that a server has mapped too."""

    def __init__(self, registry: RegionRegistry, name: str, size: int) -> None:
        """Raises OSError without room for it, and what the registry raises."""
        self.size = size
        self.name = name
        path = FOLDER / name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # a write where there is no room would end the process
            self._memory = mmap.mmap(descriptor, size)
            registry.register(name, size)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def write(self, batch: ImageArray) -> None:
        """Put a batch at its beginning."""
        np.copyto(np.ndarray(batch.shape, batch.dtype, self._memory), batch)

    def close(self) -> None:
        """Let go of our side of it."""
        self._memory.close()


class SharedMemoryPool:
    """Regions that requests borrow, one each. Safe to use from several threads."""

    def __init__(self, registry: RegionRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._idle: list[SharedRegion] = []
        self._total_bytes = 0
        self._still_mapped: list[str] = []
        """Dropped, but perhaps still mapped by the server: it keeps what the requests that were given up use."""
        self._usable: bool | None = None

    @contextmanager
    def borrow(self, size: int) -> Iterator[SharedRegion | None]:
        """A region of at least so many bytes while the block lasts, or None where there is none to be had.

        A region whose block ends with an error is not lent again: the server may still read it.
        """
        region = self._take_region(size) if size >= MIN_BYTES else None
        try:
            yield region
        except BaseException:
            if region is not None:
                self._drop(region)
            raise
        if region is not None:
            with self._lock:
                self._idle.append(region)

    def close(self) -> None:
        """Give everything back. What the server keeps even now, the next process lets go of."""
        with self._lock:
            idle, self._idle, self._usable = self._idle, [], False
        for region in idle:
            region.close()
            self._total_bytes -= region.size
        self._unregister(*(region.name for region in idle))

    def _take_region(self, size: int) -> SharedRegion | None:
        with self._lock:
            if self._usable is None:
                self._usable = self._remove_orphans()
            if not self._usable:
                return None
            fitting = [region for region in self._idle if region.size >= size]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
            small = self._idle.pop() if self._idle else None
            room = MAX_BYTES - self._total_bytes + (small.size if small else 0)
            if size <= room:
                self._total_bytes += size
        if small is not None:
            self._drop(small)
        return self._create_region(size) if size <= room else None

    def _create_region(self, size: int) -> SharedRegion | None:
        name = f"{PREFIX}{os.getpid()}-{_process_start_ticks(os.getpid())}-{secrets.token_hex(8)}"
        try:
            self._unregister()
            return SharedRegion(self._registry, name, size)
        except (OSError, TritonkitError) as error:
            with self._lock:
                self._total_bytes -= size
                if isinstance(error, DeadlineError):
                    self._still_mapped.append(name)  # it may have been mapped all the same
                if not isinstance(error, PASSING):  # a server that is away says so when it is asked
                    self._usable = False
            return None

    def _drop(self, region: SharedRegion) -> None:
        region.close()
        with self._lock:
            self._total_bytes -= region.size
        self._unregister(region.name)

    def _unregister(self, *names: str) -> None:
        """Have the server let go of these, and of what it kept before; one that is away is told of the first alone."""
        with self._lock:
            waiting, self._still_mapped = [*names, *self._still_mapped], []
        kept = []
        while waiting:
            try:
                self._registry.unregister(waiting[0])
            except (UnreachableError, DeadlineError):
                break
            except TritonkitError:
                kept.append(waiting[0])
            del waiting[0]
        with self._lock:
            self._still_mapped += kept + waiting

    def _remove_orphans(self) -> bool | None:
        """Let go of what ended processes of this machine left. Returns whether regions can be used; None: not known."""
        if not FOLDER.is_dir():
            return False
        try:
            names = [name for name in self._registry.registered() if name.startswith(PREFIX)]
        except TritonkitError as error:
            return None if isinstance(error, PASSING) else False
        for name in filter(_is_orphan, names):
            with suppress(TritonkitError):
                self._registry.unregister(name)
        for path in FOLDER.glob(f"{PREFIX}*"):
            if _is_orphan(path.name):
                with suppress(OSError):  # another user's, which this one may not delete, or it is gone already
                    path.unlink()
        return True


def _is_orphan(name: str) -> bool:
    """Whether the process that a region is named after has ended."""
    pid, _, started = name.removeprefix(PREFIX).rpartition("-")[0].partition("-")
    if not pid.isdecimal():
        return False
    began = _process_start_ticks(int(pid))
    return began != started if began else not _is_process_of_another_user(int(pid))


def _is_process_of_another_user(pid: int) -> bool:
    """Whether this is a process of another user, which /proc may hide (its option `hidepid`)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False


def _process_start_ticks(pid: int) -> str:
    """When a process began, in ticks after boot; empty when none is seen (proc_pid_stat(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
