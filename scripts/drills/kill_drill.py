"""Kill `builder export` at random moments; after each kill, the repository must load in a real Triton.

Three exports run in turns: a first export to ONNX fp16, a first export with an engine of TensorRT for RTX, and a new
version of a published model that keeps two versions. Two of three kills happen at any time of an export, the third
after the step `publishing`, when files move. Only the builder is killed, as by the kernel when memory is short. Then
`builder check` must find no error, and a Triton that loads the model must give the answers of the version's golden
sample and load the models for encoded images.

Exports run in forks of a process that has already imported torch, so that a restart costs no time, with a graph that
was exported before; `--whole` exports the graph each time. Exits with 1 after a failure.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.studies.local_triton import CachedGraphSource, LocalTriton, serve, tiny_network
from benchmarks.studies.study import Result, command
from builder.pipeline import export
from builder.repository.lint import check_repository
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from tritonkit.errors import TritonkitError
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.networks.network import save_network
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.runtimes.formats import ONNX
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import CONFIG_FILE, versions_of

TARGETS = {
    "first_onnx": {"onnx": "fp16"},
    "first_rtx": {"rtx": "fp16"},
    "replacing": {"onnx": "fp16"},
}
"""Export targets by model name."""
MAX_BATCH = 4
PUBLISHING = "publishing"
TOLERANCE = 0.02
"""Allowed error of a probability in fp16."""


def _export(checkpoint: Path, repository: Path, model: str, whole: bool, steps: Connection) -> None:
    """Export one version, and send each step. Runs in a process of its own."""
    torch.set_num_threads(1)
    source = source_from_checkpoint(checkpoint, model)
    if not whole:
        source = CachedGraphSource(source.path, source.golden, source.description, source.module)
    request = ExportRequest(source=source, repository=repository, max_batch=MAX_BATCH, keep=2, **TARGETS[model])
    export(request, steps.send)


class RunningExport:
    """An export in a process that can be killed at any moment."""

    _processes = multiprocessing.get_context("forkserver")
    _processes.set_forkserver_preload(["benchmarks.studies.local_triton", "builder.repository.lint", "onnxruntime"])

    def __init__(self, *arguments: object) -> None:
        self._steps, steps = self._processes.Pipe(duplex=False)
        self._process = self._processes.Process(target=_export, args=(*arguments, steps))
        self._process.start()
        steps.close()
        self.step = "its first step"
        """The step that began last."""

    def wait(self, seconds: float | None, step: str | None = None) -> bool:
        """Wait until the process ends or begins `step`; return False on a timeout."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._steps.poll(None if deadline is None else max(0.0, deadline - time.monotonic())):
            try:
                self.step = self._steps.recv().partition(":")[0]
            except EOFError:
                return True
            if self.step == step:
                return True
        return False

    def end(self, kill: bool) -> int:
        """Reap the process, after SIGKILL if `kill`; return its exit code, negative for a signal."""
        if kill:
            self._process.kill()
        self._process.join()
        self._steps.close()
        return int(self._process.exitcode or 0)


class ExportDrill:
    """Runs exports into one repository, kills them, and checks what is left."""

    def __init__(self, folder: Path, seed: int, whole: bool) -> None:
        self.repository = folder / "repository"
        self._checkpoint, self._whole = folder / "network.safetensors", whole
        self._rng = random.Random(seed)  # noqa: S311 - moments, no secrets
        self._loaded: dict[str, int] = {}
        """When the configuration of each loaded model was written."""
        self._durations_s: dict[str, tuple[float, float]] = {}
        """Of a whole export and of its publication, by model."""
        save_network(self._checkpoint, tiny_network())
        source_from_checkpoint(self._checkpoint).write_graph(self._checkpoint.with_suffix(ONNX.suffix))

    def _start(self, model: str) -> RunningExport:
        return RunningExport(self._checkpoint, self.repository, model, self._whole)

    def measure(self, model: str) -> None:
        """Run an export to its end to measure its time. Raises TritonkitError if it fails."""
        started, running = time.monotonic(), self._start(model)
        running.wait(None, PUBLISHING)
        publishing_started = time.monotonic()
        running.wait(None)
        if code := running.end(kill=False):
            raise TritonkitError(f"{model}: an export that nobody killed ended with {code}", code="drill.export_failed")
        self._durations_s[model] = time.monotonic() - started, time.monotonic() - publishing_started

    def kill(self, model: str, while_publishing: bool) -> str | None:
        """Kill an export at a random moment; return its step, or None if it had ended."""
        running = self._start(model)
        if while_publishing:
            running.wait(None, PUBLISHING)
        ended = running.wait(self._rng.uniform(0, self._durations_s[model][while_publishing]))
        if running.end(kill=not ended) > 0:
            raise TritonkitError(f"{model}: the export failed by itself: {running.step}", code="drill.export_failed")
        return None if ended else running.step

    def problems(self, triton: LocalTriton, model: str) -> list[str]:
        """Return the problems of the repository, and of the model's newest version in Triton."""
        errors = [finding for finding in check_repository(self.repository) if finding.severity == "error"]
        problems = [f"{finding.path}: {finding.message}" for finding in errors]
        self._loaded.pop(model, None)  # it may have a new version under the same configuration
        try:
            if self._load(triton, model):
                problems += answer_problems(triton, self.repository, model)
            if (self.repository / ensemble_of(model)).is_dir():
                self._load(triton, decoder_of(model))
                self._load(triton, ensemble_of(model))
        except TritonkitError as error:
            problems.append(str(error))
        return problems

    def clear(self, triton: LocalTriton, model: str) -> None:
        """Remove and unload a model, so that its next export is a first one."""
        for name in () if model == "replacing" else (ensemble_of(model), decoder_of(model), model):
            if self._loaded.pop(name, None):
                triton.unload(name)
            if (self.repository / name).is_dir():
                shutil.rmtree(self.repository / name)

    def _load(self, triton: LocalTriton, name: str) -> bool:
        """Load a model that was written since the last load. Returns False if the repository has no such model."""
        if not (self.repository / name).is_dir():
            return False
        written = (self.repository / name / CONFIG_FILE).stat().st_mtime_ns
        if self._loaded.get(name) != written:
            triton.load(name)
            self._loaded[name] = written
        return True


def answer_problems(triton: LocalTriton, repository: Path, model: str) -> list[str]:
    """Return the problems of the answers to the golden sample of the newest version. Raises TritonkitError."""
    newest = max(versions_of(repository / model))
    golden = Golden.load(repository / model / str(newest) / GOLDEN_FILE)
    version, outputs = triton.infer(model, golden.images[:MAX_BATCH])
    error = float(np.abs(outputs["probabilities"] - golden.outputs["probabilities"][:MAX_BATCH]).max())
    problems = [f"{model}: an answer differs by {error:.2g} from the golden sample"] * (not error < TOLERANCE)
    if version != newest:
        problems.append(f"{model}: Triton uses version {version}, the newest is {newest}")
    return problems


def drill(
    kills: int = 50,
    seed: int = 0,
    whole: Annotated[bool, typer.Option("--whole", help="Export the graph with torch each time.")] = False,
) -> Result:
    """Kill exports. Raises TritonkitError if an export fails by itself."""
    started, steps, failures = time.monotonic(), Counter[str](), list[str]()
    interrupted = published = 0
    with tempfile.TemporaryDirectory() as folder:
        exports = ExportDrill(Path(folder), seed, whole)
        exports.measure("replacing")
        with serve(exports.repository) as triton:
            for model in TARGETS:
                exports.measure(model)
                exports.clear(triton, model)
            for number, model in enumerate(cycle(TARGETS), 1):
                versions_before = versions_of(exports.repository / model)
                step = exports.kill(model, while_publishing=number % 9 in (3, 5, 7))  # of each model, a third
                if step is not None:
                    steps[step] += 1
                    published += versions_of(exports.repository / model) != versions_before
                    interrupted += bool(interrupted_exports(exports.repository))
                problems = exports.problems(triton, model)
                failures += [f"kill {steps.total()}, {model}, while {step}: {problem}" for problem in problems]
                exports.clear(triton, model)
                if steps.total() >= kills:
                    break
            for model in TARGETS:  # the next exports succeed and clean up after the last kill
                exports.measure(model)
                failures += exports.problems(triton, model)
        if staging_folder(exports.repository).exists():
            failures.append(f"{staging_folder(exports.repository)}: exists after complete exports")
        if triton.restarts:
            failures.append(f"Triton crashed {triton.restarts} times")
    record = {
        "kills": steps,
        "published": published,
        "interrupted": interrupted,
        "failures": failures,
        "seconds": round(time.monotonic() - started, 1),
    }
    return Result(record, {"the repository loads and answers after each kill": not failures})


if __name__ == "__main__":
    command(drill)()
