"""Build a plan from an ONNX graph in a separate process with a time limit, and record the result."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from pydantic import ValidationError

from builder.failures import BuildStoppedError, CannotBuildError, is_out_of_memory
from tritonkit.errors import ArtifactError
from tritonkit.repository.build_record import BuildRecord, BuildSettings
from tritonkit.runtimes.formats import ProgressCallback
from tritonkit.runtimes.tensorrt_plan import TITLES, Flavour
from tritonkit.spec import Frozen
from tritonkit.system.files import atomic_write

_ROOT = Path(__file__).parents[2]
_BAR_WIDTH = 24


class BuildRequest(Frozen):
    """The plan that the build process shall build."""

    graph: Path
    plan: Path
    settings: BuildSettings


class BuildReply(Frozen):
    """One line of the build process: the progress, the record of the plan, or the error."""

    done: float = 0.0
    phase: str = ""
    error: str | None = None
    record: BuildRecord | None = None


def build(graph: Path, plan: Path, settings: BuildSettings, report: ProgressCallback) -> BuildRecord:
    """Build `plan` from `graph`, with the precision of the graph's own types. The plan is written atomically.

    `builder.tensorrt.worker` builds it; on a terminal, its progress is shown. Raises InputError for settings that
    exclude each other, CannotBuildError where TensorRT refuses the graph, BuildStoppedError on timeout, lack of memory
    or a crash of the process.
    """
    settings.check()
    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such ONNX file to build a plan from", code="onnx.missing")
    title, is_terminal = f"building for {TITLES[settings.flavour]}", sys.stderr.isatty()
    report(title)
    folders = filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])  # an empty entry means the working folder
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if settings.flavour == "rtx" else "0",
    }
    last, overdue = BuildReply(), threading.Event()
    with atomic_write(plan) as temporary, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            # -P: import no module from the working folder that has the name of one of ours
            [sys.executable, "-P", "-m", "builder.tensorrt.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert process.stdin is not None  # noqa: S101 - for mypy: both are pipes
        assert process.stdout is not None  # noqa: S101

        def stop() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(settings.time_limit_s, stop)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # it crashed; the exit code shows how
                request = BuildRequest(graph=graph, plan=temporary, settings=settings)
                process.stdin.write(request.model_dump_json())
            for line in process.stdout:
                with contextlib.suppress(ValidationError):  # a killed process leaves an incomplete line
                    last = BuildReply.model_validate_json(line)
                if is_terminal:
                    full = round(last.done * _BAR_WIDTH)
                    bar = "━" * full + "─" * (_BAR_WIDTH - full)
                    report(f"{title} {bar} {last.done:.0%} {last.phase}")
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        errors.seek(0)
        written = errors.read().decode(errors="replace").strip().splitlines()
        if last.record is not None:
            return last.record
        if overdue.is_set():
            raise BuildStoppedError(
                f"{graph.name}: building the plan was stopped after the time limit of {settings.time_limit_s:g} s. "
                "Raise the limit, or lower the optimization level",
                code="tensorrt.timeout",
            )
        if last.error is not None and is_out_of_memory(last.error):
            raise BuildStoppedError(
                f"{last.error}; out of memory: lower the workspace or the largest batch, or free memory",
                code="tensorrt.out_of_memory",
            )
        if last.error is not None:
            raise CannotBuildError(last.error, code="tensorrt.build_refused")
        if process.returncode == -9:
            reason = "the build process was killed, most likely for lack of memory: lower the workspace"
        else:
            last_words = written[-1] if written else "without a message"
            reason = f"the build process ended with exit code {process.returncode}: {last_words}"
        raise BuildStoppedError(f"{graph.name}: {reason}", code="tensorrt.build_crashed")


def timing_cache_path(flavour: Flavour, version: str, gpu: str) -> Path:
    """The file of TensorRT's kernel timings, kept between builds, for one TensorRT version and one GPU model."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{flavour}-{version}-{gpu}")
    return Path(base) / "tritonkit" / "timing" / f"{name}.cache"
