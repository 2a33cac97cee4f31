"""The process one plan is built in: `python -m builder.tensorrt.worker`, a request on stdin, JSON lines on stdout.

One build a process: TensorRT keeps state from a build that failed, and the next then reports the error of the earlier.
A crash of the library or a lack of memory takes no more than the process with it.
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

from builder.tensorrt.network import Built
from builder.tensorrt.precision import engine_information, precision_of_engine
from builder.tensorrt.timing_cache import timing_cache_path
from model.build_record import BuildSettings
from model.errors import TritonkitError
from model.gpu import find_gpu
from model.plans import find_tensorrt
from model.spec import Frozen

_PR_SET_PDEATHSIG = 1


class Request(Frozen):
    """What to build."""

    graph: Path
    plan: Path
    settings: BuildSettings


class Reply(Frozen):
    """One line: how far it is, or what came of it, or why nothing did."""

    done: float = 0.0
    phase: str = ""
    error: str | None = None
    outcome: Outcome | None = None


class Outcome(Frozen):
    """What only the building process knows."""

    tensorrt: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    seconds: float
    peak_memory_mib: int
    tensors: dict[str, int]
    computed: dict[str, int]
    engine: dict[str, int] = Field(default_factory=dict)


def main() -> int:
    """Read a request, build, and reply. 0 also where the build was refused: the reply says so."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The library may print; stdout is for replies alone.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = Request.model_validate_json(sys.stdin.read())
    try:
        reply = Reply(done=1.0, outcome=built(request, replies))
    except TritonkitError as error:
        reply = Reply(error=str(error))
    print(reply.model_dump_json(), file=replies)
    return 0


def built(request: Request, replies: TextIO) -> Outcome:
    """Build the plan and write it. Raises ArtifactError."""
    settings = request.settings
    trt = find_tensorrt(settings.flavour)
    gpu = find_gpu()
    cache = None
    if settings.timing_cache and settings.flavour == "tensorrt" and gpu is not None:  # RTX times nothing
        cache = timing_cache_path(settings.flavour, trt.__version__, gpu.name)
    began = time.monotonic()
    network = Built(trt, request.graph, settings)
    plan = network.plan(cache, _Teller(replies))
    with request.plan.open("wb") as file:
        file.write(plan)
    seconds = time.monotonic() - began
    inspected = gpu is not None and settings.runs_on(gpu.compute_capability)
    information = engine_information(trt, bytes(plan), settings.version_compatible) if inspected else None
    return Outcome(
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
    """Of this process alone: the figure of getrusage is inherited from the one that started it."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


class _Teller:
    """Tells of progress, no more than ten times a second."""

    def __init__(self, replies: TextIO) -> None:
        self._replies = replies
        self._told_s = 0.0

    def __call__(self, done: float, phase: str) -> None:
        if time.monotonic() - self._told_s >= 0.1:
            self._told_s = time.monotonic()
            print(json.dumps({"done": round(done, 3), "phase": phase}), file=self._replies)


if __name__ == "__main__":
    sys.exit(main())
