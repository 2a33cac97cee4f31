"""Why there is no artifact to judge.

Neither says anything of the model's answers. What was asked for and cannot be built ends the export; a precision that
was not, such as bf16 in place of an fp16 that fails, is left out: see `builder.repair`.
"""

from __future__ import annotations

import re

from model.errors import ArtifactError, ExternalError


class CannotBuildError(ArtifactError):
    """The target does not take the graph, or would compute it in another precision than its own."""


class BuildStoppedError(ExternalError):
    """A build did not come to its end: its time was up, memory was short, or its container could not be run."""


def tells_of_memory(message: str) -> bool:
    """Whether TensorRT's words for an error are of a lack of memory, which says nothing of the graph.

    Its `ErrorCode` has kOUT_OF_MEMORY, told as "Error Code 2: OutOfMemory" (NvInferRuntimeBase.h, TensorRT 10); CUDA
    says "out of memory", C++ "std::bad_alloc".
    """
    return re.search(r"out[ _]?of[ _]?memory|bad_alloc|cannot allocate memory", message, re.IGNORECASE) is not None
