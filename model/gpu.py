"""The NVIDIA GPU of this machine, asked of the driver itself: torch takes seconds and a gigabyte to say as much."""

from __future__ import annotations

import ctypes

from model.spec import Frozen

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


class Gpu(Frozen):
    """One device."""

    name: str
    """As NVIDIA sells it, such as `NVIDIA L4`."""
    compute_capability: str
    """Such as `8.9`."""


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU of that number among those visible (CUDA_VISIBLE_DEVICES), None where there is no driver or no GPU."""
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
