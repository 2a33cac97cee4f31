"""Reads the machine and the software versions for a record."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.records.record import Environment
from tritonkit.system.gpu import query_gpus

PACKAGES = ("tritonkit", "numpy", "onnxruntime", "tritonclient")


def read_environment(triton: str) -> Environment:
    """Read this machine and its packages. triton: the version of the server."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    cpus = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return Environment(
        cpu=next(cpus, platform.processor() or platform.machine()),
        cores=usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=tuple(query_gpus("name", "driver_version")),
        platform=platform.platform(),
        python=platform.python_version(),
        packages=packages,
        triton=triton,
        load_average=round(psutil.getloadavg()[0], 2),
    )


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
