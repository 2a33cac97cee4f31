"""`batch_size: auto`: the largest power of two whose training step fits into the memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

from tritonkit.errors import ConfigError

LARGEST = 256
"""Larger batches rarely train faster, and need another learning rate."""
SMALLEST = 2
SHARE = 0.5
"""Share of the free memory of a CPU's machine that a step may take: the workers need some too."""


def largest_on_gpu(step: Callable[[int], None], limit: int) -> int:
    """Double the batch until the GPU's memory is too small. Raises ConfigError if the smallest does not fit."""
    fitting = 0
    for size in _powers_of_two(limit):
        try:
            step(size)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            break
        finally:
            garbage_collection_cuda()
        fitting = size
    return _require_fit(fitting)


def largest_on_cpu(step: Callable[[int], None], limit: int, available: int, processes: int = 1) -> int:
    """Compute the largest batch from the memory of two small ones. Raises ConfigError if the smallest does not fit.

    available: bytes, shared by the processes. A CPU has no error to catch: the system would end the process, or swap.
    """
    small, large = SMALLEST, min(4 * SMALLEST, limit)
    step(small)  # what is allocated only once
    first, second = _memory_of(step, small), _memory_of(step, large)
    each = max(second - first, 0) / max(large - small, 1)
    fixed = max(first - each * small, 0)
    share = available / processes
    return _require_fit(max((size for size in _powers_of_two(limit) if fixed + each * size <= share), default=0))


def free_memory() -> int:
    """Return the free bytes of the machine, or of the container if that has a limit."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")  # version 2: docs.kernel.org/admin-guide/cgroup-v2.html
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return available
    return min(available, limit - used + int(cached))  # cached files, such as the images, give way


def _powers_of_two(limit: int) -> Iterator[int]:
    size = SMALLEST
    while size <= limit:
        yield size
        size *= 2


def _require_fit(size: int) -> int:
    if not size:
        raise ConfigError(
            f"batch_size: auto: not even {SMALLEST} images fit into the memory; use a smaller image.size or model",
            code="training.no_batch_fits",
        )
    return size


def _memory_of(step: Callable[[int], None], size: int) -> int:
    """Return the bytes by which a step raises the peak memory of this process."""
    before = _reset_peak()
    step(size)
    return _peak_memory() - before


def _reset_peak() -> int:
    """Let the peak memory start again from what is in use, and return that. Linux: proc_pid_clear_refs(5)."""
    with suppress(AttributeError):  # a C library that is not GNU's
        ctypes.CDLL(None).malloc_trim(0)  # memory that it keeps for later would hide what a step takes
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise ConfigError(
            f"batch_size: auto: the system does not tell the peak memory of a process ({error}); give a number",
            code="training.no_memory_figures",
        ) from error
    return _peak_memory()


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
