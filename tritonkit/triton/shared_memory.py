"""Send images to a Triton server on the same machine through system shared memory instead of its socket.

Only inputs use shared memory: the server may still answer a request after its timeout, and would overwrite the
outputs of a later one. A region's file is unlinked as soon as the server has mapped it, so no file remains, however
this process ends. Regions that the server still maps for a killed process are unregistered by the next process.
Source: triton-inference-server/server, docs/protocol/extension_shared_memory.md.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tritonkit.errors import DeadlineError, InferenceError, TritonkitError, UnreachableError
from tritonkit.images.preprocess import ImageArray
from tritonkit.triton.retry import TRANSIENT
from tritonkit.triton.transport import Transport

FOLDER = Path("/dev/shm")  # noqa: S108 - the folder of shm_open on Linux
PREFIX = "tritonkit-"
MIN_BYTES = 128 * 2**10
"""Smaller batches are sent through the socket, which costs no more."""
MAX_BYTES = 256 * 2**20
"""Limit for all regions together."""
_TIMEOUT_S = 2.0
"""Deadline of a gRPC request about shared memory. It is short, because images can be sent without shared memory."""
_FIRST_SAFE_RELEASE = (2, 50)
"""First Triton release (24.09) that keeps a region while a request uses it (server, pull request 7567)."""


class RegionRegistry:
    """The regions that a server has mapped. All methods raise the errors of the connection."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, region: str, size: int) -> None:
        """Let the server map a region; `region` is its name and its key."""
        self._call("map shared memory", "register_system_shared_memory", region, f"/{region}", size)

    def unregister(self, region: str) -> None:
        """Let the server unmap a region. Fails while a request uses it."""
        self._call("unmap shared memory", "unregister_system_shared_memory", region)

    def registered(self) -> list[str]:
        """Return the names of all mapped regions. Raises InferenceError for a release that is unsafe."""
        release = str(self._document("tell its version", "get_server_metadata")["version"])
        if tuple(map(int, release.split(".")[:2])) < _FIRST_SAFE_RELEASE:
            raise InferenceError(
                f"Triton {release} crashes when it unmaps memory that it still reads",
                code="shared_memory.unsafe_release",
            )
        document = self._document("list shared memory", "get_system_shared_memory_status")
        return list(document["regions"]) if "regions" in document else [str(row["name"]) for row in document]

    def _call(self, action: str, method: str, *arguments: Any) -> None:
        self._transport.call(action, method, *arguments, timeout_s=_TIMEOUT_S)

    def _document(self, action: str, method: str) -> Any:
        return self._transport.document(action, method, timeout_s=_TIMEOUT_S)


class SharedRegion:
    """Shared memory that this process and a server have mapped."""

    def __init__(self, registry: RegionRegistry, name: str, size: int) -> None:
        """Raises OSError if there is no space, and the errors of the registry."""
        self.size = size
        self.name = name
        path = FOLDER / name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # without this, a write to a full /dev/shm kills the process
            self._memory = mmap.mmap(descriptor, size)
            registry.register(name, size)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def write(self, batch: ImageArray) -> None:
        """Copy a batch to the start of the region."""
        np.copyto(np.ndarray(batch.shape, batch.dtype, self._memory), batch)

    def close(self) -> None:
        """Unmap the region in this process."""
        self._memory.close()


class SharedMemoryPool:
    """Shared regions that requests borrow, one each. Thread-safe."""

    def __init__(self, registry: RegionRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._idle: list[SharedRegion] = []
        self._total_bytes = 0
        self._still_mapped: list[str] = []
        """Closed regions that the server may still map, because a timed-out request uses them."""
        self._usable: bool | None = None

    @property
    def is_used(self) -> bool:
        """Whether the server has mapped regions of this pool."""
        return self._total_bytes > 0

    @contextmanager
    def borrow(self, size: int) -> Iterator[SharedRegion | None]:
        """Borrow a region of at least `size` bytes for a `with` block; None if no region can be used.

        A region is not reused after an error in its block, because the server may still read it.
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
        """Close and unregister all regions. If the server still uses one, the next process unregisters it."""
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
            smaller = self._idle.pop() if self._idle else None
            free_bytes = MAX_BYTES - self._total_bytes + (smaller.size if smaller else 0)
            if size <= free_bytes:
                self._total_bytes += size
        if smaller is not None:
            self._drop(smaller)
        if size > free_bytes:
            return None
        name = f"{PREFIX}{os.getpid()}-{_process_start_ticks(os.getpid())}-{secrets.token_hex(8)}"
        try:
            self._unregister()
            return SharedRegion(self._registry, name, size)
        except (OSError, TritonkitError) as error:
            with self._lock:
                self._total_bytes -= size
                if isinstance(error, DeadlineError):
                    self._still_mapped.append(name)  # the server may have mapped it
                if not isinstance(error, TRANSIENT):  # an unreachable server may come back
                    self._usable = False
            return None

    def _drop(self, region: SharedRegion) -> None:
        region.close()
        with self._lock:
            self._total_bytes -= region.size
        self._unregister(region.name)

    def _unregister(self, *names: str) -> None:
        """Unregister these regions and those that failed before; if the server is unreachable, stop after the first."""
        with self._lock:
            pending, self._still_mapped = [*names, *self._still_mapped], []
        failed = []
        while pending:
            try:
                self._registry.unregister(pending[0])
            except (UnreachableError, DeadlineError):
                break
            except TritonkitError:
                failed.append(pending[0])
            del pending[0]
        with self._lock:
            self._still_mapped += failed + pending

    def _remove_orphans(self) -> bool | None:
        """Remove regions of ended processes. Returns whether shared memory can be used; None if not known yet."""
        if not FOLDER.is_dir():
            return False
        try:
            names = [name for name in self._registry.registered() if name.startswith(PREFIX)]
        except TritonkitError as error:
            return None if isinstance(error, TRANSIENT) else False
        for name in filter(_is_orphan, names):
            with suppress(TritonkitError):
                self._registry.unregister(name)
        for path in FOLDER.glob(f"{PREFIX}*"):
            if _is_orphan(path.name):
                with suppress(OSError):  # it belongs to another user, or is already deleted
                    path.unlink()
        return True


def _is_orphan(name: str) -> bool:
    """Whether the process in a region's name has ended."""
    pid, _, start_ticks = name.removeprefix(PREFIX).rpartition("-")[0].partition("-")
    if not pid.isdecimal():
        return False
    if current_ticks := _process_start_ticks(int(pid)):
        return current_ticks != start_ticks
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # a process of another user, which /proc may hide (mount option `hidepid`)
        return False
    except (ProcessLookupError, OverflowError):
        return True
    return True


def _process_start_ticks(pid: int) -> str:
    """Return the start time of a process in ticks after boot (proc_pid_stat(5), field 22); empty if /proc has none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
