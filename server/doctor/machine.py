"""Memory and GPU of this machine."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from server.options import RuntimeName
from tritonkit.errors import InputError, ServerError
from tritonkit.spec import Frozen
from tritonkit.system.gpu import Gpu, find_gpu, query_gpus

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Triton's Python backend puts its segments there
_CGROUP = Path("/sys/fs/cgroup")
_MIB = 2**20


class Machine(Frozen):
    """Free memory, and the first visible GPU."""

    memory_bytes: int
    """Available memory."""
    shared_memory_bytes: int
    """Free space of /dev/shm."""
    gpu: Gpu | None = None
    gpu_memory_bytes: int | None = None
    """Free memory of the GPU; None if unknown."""
    containers_have_gpu: bool | None = None
    """Whether the Docker engine gives the GPU to containers; None if unknown."""

    def without_gpu(self) -> Machine:
        """Return the machine as a container without a GPU sees it."""
        return self.model_copy(update={"gpu": None, "gpu_memory_bytes": None})


def inspect_machine(runtime: RuntimeName = "pip") -> Machine:
    """Read free memory and GPU; for the docker runtime also ask the Docker engine."""
    gpu = find_gpu()
    free_mib = next(iter(query_gpus("memory.free")), "") if gpu else ""
    containers_have_gpu = None
    if runtime == "docker":
        from server.runtimes.docker_runtime import engine_has_gpu

        with suppress(InputError, ServerError):  # `start_findings` and the start report this
            containers_have_gpu = engine_has_gpu()
    return Machine(
        memory_bytes=min(psutil.virtual_memory().available, _cgroup_free_bytes()),
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0,
        gpu=gpu,
        gpu_memory_bytes=int(free_mib) * _MIB if free_mib.isdecimal() else None,
        containers_have_gpu=containers_have_gpu,
    )


def _cgroup_free_bytes() -> int:
    """Return the free memory of the cgroup, if it has a limit. Format: docs.kernel.org, cgroup-v2."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        reclaimed = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(reclaimed.get("inactive_file", 0))
    except (OSError, ValueError):  # no such file, or "max"
        return psutil.virtual_memory().total
