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

_NAMES = {
    "checkpoint": ("read_spec", "read_weights", "write_checkpoint"),
    "comparison": ("Comparison", "Limits", "compare"),
    "errors": ("TritonkitError",),
    "golden": ("Golden",),
    "images.preprocess": ("Geometry", "ImageError", "Preprocess", "load_image"),
    "plugins": ("register",),
    "repository.manifest": ("Manifest",),
    "repository.verdict": ("Verdict",),
    "runtimes": ("open_artifact",),
    "runtimes.base": ("Runner",),
    "spec": ("ModelSpec", "TaskSpec", "TensorSpec"),
    "tasks": ("task_of",),
    "tasks.base": ("Task",),
    "triton.connection": ("Connection",),
}
"""The public names by their module."""

# gRPC's own preparation for a fork aborts or blocks the process when it comes at the wrong moment. tritonkit forks only
# processes that send no requests, such as torch's data loaders.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


def __getattr__(name: str) -> Any:
    """Load a public name at its first use. Raises AttributeError for any other."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f"tritonkit.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
