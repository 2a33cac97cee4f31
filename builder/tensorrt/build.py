"""Build a plan from an ONNX graph in a process of its own, within limits, and record what came out."""

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

from builder.failures import BuildStoppedError, CannotBuildError, tells_of_memory
from builder.targets import ProgressCallback
from builder.tensorrt.worker import Outcome, Reply, Request
from model.build_record import BuildRecord, BuildSettings
from model.errors import ArtifactError
from model.files import atomic_write, sha256_of
from model.plans import TITLES

_ROOT = Path(__file__).parents[2]
_BAR_WIDTH = 24


def build(graph: Path, plan: Path, settings: BuildSettings, report: ProgressCallback) -> BuildRecord:
    """Build `plan` from `graph`, whose own types are the precision. The plan is written beside and renamed.

    Raises InputError for settings that do not fit together, CannotBuildError when the graph is not taken,
    BuildStoppedError when the time limit passes, memory is short or the process dies.
    """
    settings.check()
    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such graph to build a plan from")
    title = f"building for {TITLES[settings.flavour]}"
    report(title)
    with atomic_write(plan) as beside:
        outcome = _ask(Request(graph=graph, plan=beside, settings=settings), _Shown(title, report))
        size, digest = beside.stat().st_size, sha256_of(beside)
    return BuildRecord(
        **outcome.model_dump(),
        flavour=settings.flavour,
        bytes=size,
        sha256=digest,
        graph_sha256=sha256_of(graph),
        settings=settings,
    )


class _Shown:
    """Draws how far a build is where somebody watches; a log is spared."""

    def __init__(self, title: str, report: ProgressCallback) -> None:
        self._title = title
        self._report = report
        self._watched = sys.stderr.isatty()

    def __call__(self, reply: Reply) -> None:
        if self._watched:
            full = round(reply.done * _BAR_WIDTH)
            bar = "━" * full + "─" * (_BAR_WIDTH - full)
            self._report(f"{self._title} {bar} {reply.done:.0%} {reply.phase}")


def _ask(request: Request, show: Callable[[Reply], None]) -> Outcome:
    folders = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])  # an empty one means the working folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    limit_s = request.settings.time_limit_s
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "builder.tensorrt.worker"],  # -P: a `model` in the working folder is not ours
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
            last = _conversation(process, request, show)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        if last.outcome is not None:
            return last.outcome
        name = request.graph.name
        if overdue.is_set():
            raise BuildStoppedError(
                f"{name}: building the plan took more than {limit_s:g} s, the time limit, and was stopped. "
                "Raise the limit, or lower the optimization level"
            )
        if last.error is not None:
            raise _failure(last.error)
        raise BuildStoppedError(f"{name}: {_death(process.returncode, errors)}")


def _failure(said: str) -> BuildStoppedError | CannotBuildError:
    if tells_of_memory(said):
        return BuildStoppedError(f"{said}; memory was short: lower the workspace or the largest batch, or free some")
    return CannotBuildError(said)


def _conversation(process: subprocess.Popen[str], request: Request, show: Callable[[Reply], None]) -> Reply:
    """Send the request, show each reply, and give the last."""
    last = Reply()
    if process.stdin is None or process.stdout is None:
        return last
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it died before it read; how, its exit code tells
        process.stdin.write(request.model_dump_json())
    for line in process.stdout:
        with contextlib.suppress(ValidationError):  # the half line of a process that was killed
            last = Reply.model_validate_json(line)
            show(last)
    process.wait()
    return last


def _death(code: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip().splitlines()
    if code == -9:
        return "the process that builds the plan was killed, most likely for want of memory: lower the workspace"
    return f"the process that builds the plan ended with code {code}: {said[-1] if said else 'it said nothing'}"
