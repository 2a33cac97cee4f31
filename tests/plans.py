"""A TensorRT plan that is nothing but a header, its build record, and the image that loads it."""

from __future__ import annotations

import struct

from tritonkit.repository.build_record import BuildRecord, BuildSettings

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
PLAN = struct.pack("<4s12xQ4B", b"ftrt", 128, 11, 1, 0, 106) + bytes(100)
"""The header of a plan of TensorRT 11.1.0.106, followed by zeros."""


def build_record(**changes: object) -> BuildRecord:
    """The record of a plan that TensorRT 11.1.0.106 built for an L4."""
    record = {
        "flavour": "tensorrt",
        "tensorrt": "11.1.0.106",
        "gpu": "NVIDIA L4",
        "compute_capabilities": ("8.9",),
        "seconds": 1,
        "bytes": len(PLAN),
        "sha256": "a",
        "graph_sha256": "b",
        "settings": BuildSettings(max_batch=8),
    }
    return BuildRecord.model_validate({**record, **changes})
