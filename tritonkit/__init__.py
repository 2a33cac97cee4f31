"""The nouns that all commands share: model specification, checkpoint, tasks, runtimes, Triton and its repository.

The names of `__all__` are the public Python API. Each is loaded at its first use, so `import tritonkit` is cheap.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonkit.checkpoint import read_spec, read_weights, write_checkpoint
    from tritonkit.comparison import Comparison, Limits, compare
    from tritonkit.errors import TritonkitError
    from tritonkit.golden import Golden
    from tritonkit.images.preprocess import Geometry, ImageError, Preprocess, load_image
    from tritonkit.plugins import register
    from tritonkit.repository.manifest import Manifest
    from tritonkit.repository.verdict import Verdict
    from tritonkit.runtimes import open_artifact
    from tritonkit.runtimes.base import Runner
    from tritonkit.spec import ModelSpec, TaskSpec, TensorSpec
    from tritonkit.tasks import task_of
    from tritonkit.tasks.base import Task
    from tritonkit.triton.connection import Connection

__all__ = [
    "Comparison",
    "Connection",
    "Geometry",
    "Golden",
    "ImageError",
    "Limits",
    "Manifest",
    "ModelSpec",
    "Preprocess",
    "Runner",
    "Task",
    "TaskSpec",
    "TensorSpec",
    "TritonkitError",
    "Verdict",
    "compare",
    "load_image",
    "open_artifact",
    "read_spec",
    "read_weights",
    "register",
    "task_of",
    "write_checkpoint",
]

_MODULES = {
    "Comparison": "tritonkit.comparison",
    "Connection": "tritonkit.triton.connection",
    "Geometry": "tritonkit.images.preprocess",
    "Golden": "tritonkit.golden",
    "ImageError": "tritonkit.images.preprocess",
    "Limits": "tritonkit.comparison",
    "Manifest": "tritonkit.repository.manifest",
    "ModelSpec": "tritonkit.spec",
    "Preprocess": "tritonkit.images.preprocess",
    "Runner": "tritonkit.runtimes.base",
    "Task": "tritonkit.tasks.base",
    "TaskSpec": "tritonkit.spec",
    "TensorSpec": "tritonkit.spec",
    "TritonkitError": "tritonkit.errors",
    "Verdict": "tritonkit.repository.verdict",
    "compare": "tritonkit.comparison",
    "load_image": "tritonkit.images.preprocess",
    "open_artifact": "tritonkit.runtimes",
    "read_spec": "tritonkit.checkpoint",
    "read_weights": "tritonkit.checkpoint",
    "register": "tritonkit.plugins",
    "task_of": "tritonkit.tasks",
    "write_checkpoint": "tritonkit.checkpoint",
}

# gRPC's own preparation for a fork aborts or blocks the process when it comes at the wrong moment. tritonkit forks only
# processes that send no requests, such as torch's data loaders.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


def __getattr__(name: str) -> Any:
    """Load a public name at its first use. Raises AttributeError for any other."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
