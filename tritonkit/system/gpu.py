"""The NVIDIA GPU of this machine, read from the driver: torch would need seconds and a gigabyte of memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

from tritonkit.spec import Frozen

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


class Gpu(Frozen):
    """One GPU."""

    name: str
    """NVIDIA's product name, such as `NVIDIA L4`."""
    compute_capability: str
    """Such as `8.9`."""


def find_gpu(index: int = 0) -> Gpu | None:
    """Return the visible GPU with this index (CUDA_VISIBLE_DEVICES), None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        return None
    return Gpu(name=name.value.decode(), compute_capability=f"{major.value}.{minor.value}")


def query_gpus(*fields: str) -> list[str]:
    """Return a line of `nvidia-smi --query-gpu` for each GPU, without units; none without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []
