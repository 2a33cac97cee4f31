"""Reads the machine and the software versions for a record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.record import Environment
from tritonkit.system.gpu import query_gpus

PACKAGES = ("tritonkit", "numpy", "onnxruntime", "tritonclient")


def read_environment(triton: str) -> Environment:
    """Read this machine and its packages. triton: the version of the server."""
    return Environment(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=tuple(query_gpus("name", "driver_version")),
        platform=platform.platform(),
        python=platform.python_version(),
        packages={name: installed for name in PACKAGES if (installed := _installed_version(name))},
        triton=triton,
        load_average=round(psutil.getloadavg()[0], 2),
    )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
