"""Errors of a build that gives no artifact to verify.

They say nothing about the answers of the model. If the requested precision cannot be built, the export ends; a fallback
precision, such as bf16 after an fp16 that failed, is skipped: see `builder.build`.
"""

from __future__ import annotations

import re

from tritonkit.errors import ArtifactError, ExternalError


class CannotBuildError(ArtifactError):
    """The format does not support the graph, or its runtime would compute in another precision."""


class BuildStoppedError(ExternalError):
    """A build was interrupted: by its time limit, by lack of memory, or because its container could not be run."""


def is_out_of_memory(message: str) -> bool:
    """Whether an error message of TensorRT is about a lack of memory, which says nothing about the graph.

    TensorRT writes kOUT_OF_MEMORY as "Error Code 2: OutOfMemory" (NvInferRuntimeBase.h, TensorRT 10), CUDA writes "out
    of memory", C++ "std::bad_alloc".
    """
    return re.search(r"out[ _]?of[ _]?memory|bad_alloc|cannot allocate memory", message, re.IGNORECASE) is not None
