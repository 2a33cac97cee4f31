"""Build a plan from an ONNX graph in a separate process with a time limit, and record the result."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from builder.failures import BuildStoppedError, CannotBuildError, is_out_of_memory
from builder.tensorrt.worker import BuildOutcome, BuildReply, BuildRequest
from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.runtimes.tensorrt_plan import TITLES
from tritonkit.system.files import atomic_write, file_sha256

_ROOT = Path(__file__).parents[2]
_BAR_WIDTH = 24


def build(graph: Path, plan: Path, settings: BuildSettings, report: ProgressCallback) -> BuildRecord:
    """Build `plan` from `graph`, with the precision of the graph's own types. The plan is written atomically.

    Raises InputError for settings that exclude each other, CannotBuildError where TensorRT refuses the graph,
    BuildStoppedError on timeout, lack of memory or a crash of the process.
    """
    settings.check()
    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such ONNX file to build a plan from", code="onnx.missing")
    title = f"building for {TITLES[settings.flavour]}"
    report(title)
    with atomic_write(plan) as temporary:
        outcome = _run_worker(BuildRequest(graph=graph, plan=temporary, settings=settings), _ProgressBar(title, report))
        size, digest = temporary.stat().st_size, file_sha256(temporary)
    return BuildRecord(
        **outcome.model_dump(),
        flavour=settings.flavour,
        bytes=size,
        sha256=digest,
        graph_sha256=file_sha256(graph),
        settings=settings,
    )


class _ProgressBar:
    """Shows the progress of a build on a terminal; writes nothing to a log."""

    def __init__(self, title: str, report: ProgressCallback) -> None:
        self._title = title
        self._report = report
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, reply: BuildReply) -> None:
        if self._is_terminal:
            full = round(reply.done * _BAR_WIDTH)
            bar = "━" * full + "─" * (_BAR_WIDTH - full)
            self._report(f"{self._title} {bar} {reply.done:.0%} {reply.phase}")


def _run_worker(request: BuildRequest, show: Callable[[BuildReply], None]) -> BuildOutcome:
    folders = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])  # an empty entry means the working folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    limit_s = request.settings.time_limit_s
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            # -P: import no module from the working folder that has the name of one of ours
            [sys.executable, "-P", "-m", "builder.tensorrt.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        overdue = threading.Event()

        def stop() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            last = _exchange(process, request, show)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        if last.outcome is not None:
            return last.outcome
        name = request.graph.name
        if overdue.is_set():
            raise BuildStoppedError(
                f"{name}: building the plan was stopped after the time limit of {limit_s:g} s. Raise the limit, or "
                "lower the optimization level",
                code="tensorrt.timeout",
            )
        if last.error is not None:
            raise _failure(last.error)
        raise BuildStoppedError(f"{name}: {_exit_reason(process.returncode, errors)}", code="tensorrt.build_crashed")


def _failure(message: str) -> BuildStoppedError | CannotBuildError:
    if is_out_of_memory(message):
        return BuildStoppedError(
            f"{message}; out of memory: lower the workspace or the largest batch, or free memory",
            code="tensorrt.out_of_memory",
        )
    return CannotBuildError(message, code="tensorrt.build_refused")


def _exchange(process: subprocess.Popen[str], request: BuildRequest, show: Callable[[BuildReply], None]) -> BuildReply:
    """Send the request, show each reply, and return the last one."""
    last = BuildReply()
    if process.stdin is None or process.stdout is None:
        return last
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it crashed before reading; the exit code shows how
        process.stdin.write(request.model_dump_json())
    for line in process.stdout:
        with contextlib.suppress(ValidationError):  # a killed process leaves an incomplete line
            last = BuildReply.model_validate_json(line)
            show(last)
    process.wait()
    return last


def _exit_reason(code: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    if code == -9:
        return "the build process was killed, most likely for lack of memory: lower the workspace"
    return f"the build process ended with exit code {code}: {lines[-1] if lines else 'without a message'}"
