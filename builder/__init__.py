"""`builder`: export a checkpoint to verified artifacts in a model repository.

The names of `__all__` are the public Python API. Each is loaded at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import tritonkit  # noqa: F401 - it sets environment variables that gRPC reads at import

if TYPE_CHECKING:
    from builder.object_pipeline.config import PipelineRequest
    from builder.object_pipeline.publish import publish_pipeline
    from builder.optimization.request import OptimizeRequest
    from builder.optimization.run import OptimizedVersion, optimize
    from builder.pipeline import export
    from builder.repository.published import PublishedVersion
    from builder.request import ExportRequest

__all__ = [
    "ExportRequest",
    "OptimizeRequest",
    "OptimizedVersion",
    "PipelineRequest",
    "PublishedVersion",
    "export",
    "optimize",
    "publish_pipeline",
]

_MODULES = {
    "ExportRequest": "builder.request",
    "OptimizeRequest": "builder.optimization.request",
    "OptimizedVersion": "builder.optimization.run",
    "PipelineRequest": "builder.object_pipeline.config",
    "PublishedVersion": "builder.repository.published",
    "export": "builder.pipeline",
    "optimize": "builder.optimization.run",
    "publish_pipeline": "builder.object_pipeline.publish",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use. Raises AttributeError for any other."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
