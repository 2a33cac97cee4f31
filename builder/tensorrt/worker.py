"""The process that builds one plan: `python -m builder.tensorrt.worker`, request on stdin, JSON lines on stdout.

Each plan has its own process: after a failed build, TensorRT reports the old error again in the next build. A crash of
the library or a lack of memory ends only this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from pydantic import Field

from builder.tensorrt.network import PlanBuilder
from builder.tensorrt.precision import engine_information, precision_of_engine
from builder.tensorrt.timing_cache import timing_cache_path
from tritonkit.errors import TritonkitError
from tritonkit.repository.build_record import BuildSettings
from tritonkit.runtimes.tensorrt_plan import find_tensorrt
from tritonkit.spec import Frozen
from tritonkit.system.gpu import find_gpu

_PR_SET_PDEATHSIG = 1


class BuildRequest(Frozen):
    """The plan to build."""

    graph: Path
    plan: Path
    settings: BuildSettings


class BuildReply(Frozen):
    """One line of output: the progress, the outcome, or the error."""

    done: float = 0.0
    phase: str = ""
    error: str | None = None
    outcome: BuildOutcome | None = None


class BuildOutcome(Frozen):
    """The result of a build, as far as only the build process knows it."""

    tensorrt: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    seconds: float
    peak_memory_mib: int
    tensors: dict[str, int]
    computed: dict[str, int]
    engine: dict[str, int] = Field(default_factory=dict)


def main() -> int:
    """Read a request, build, and reply. Returns 0 also where the build fails: the reply holds the error."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The library may print to stdout, which is reserved for replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = BuildRequest.model_validate_json(sys.stdin.read())
    try:
        reply = BuildReply(done=1.0, outcome=build_plan(request, replies))
    except TritonkitError as error:
        reply = BuildReply(error=str(error))
    print(reply.model_dump_json(), file=replies)
    return 0


def build_plan(request: BuildRequest, replies: TextIO) -> BuildOutcome:
    """Build the plan and write it to its file. Raises ArtifactError."""
    settings = request.settings
    trt = find_tensorrt(settings.flavour)
    gpu = find_gpu()
    cache = None
    if settings.timing_cache and settings.flavour == "tensorrt" and gpu is not None:  # RTX has no timing cache
        cache = timing_cache_path(settings.flavour, trt.__version__, gpu.name)
    began = time.monotonic()
    network = PlanBuilder(trt, request.graph, settings)
    plan = network.build(cache, _ProgressWriter(replies))
    with request.plan.open("wb") as file:
        file.write(plan)
    seconds = time.monotonic() - began
    inspected = gpu is not None and settings.runs_on(gpu.compute_capability)
    information = engine_information(trt, bytes(plan), settings.version_compatible) if inspected else None
    return BuildOutcome(
        tensorrt=trt.__version__,
        gpu=gpu.name if gpu is not None and settings.flavour == "tensorrt" else None,
        compute_capabilities=settings.targets or ((gpu.compute_capability,) if gpu else ()),
        seconds=round(seconds, 2),
        peak_memory_mib=_peak_memory_mib(),
        tensors=network.tensors,
        computed=network.computed,
        engine=precision_of_engine(information) if information else {},
    )


def _peak_memory_mib() -> int:
    """Peak memory of this process; getrusage would include the parent process."""
    match = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(match.group(1)) // 1024 if match else 0


class _ProgressWriter:
    """Writes the progress as JSON, at most ten times a second."""

    def __init__(self, replies: TextIO) -> None:
        self._replies = replies
        self._written_at_s = 0.0

    def __call__(self, done: float, phase: str) -> None:
        if time.monotonic() - self._written_at_s >= 0.1:
            self._written_at_s = time.monotonic()
            print(json.dumps({"done": round(done, 3), "phase": phase}), file=self._replies)


if __name__ == "__main__":
    sys.exit(main())
