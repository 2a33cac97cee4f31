"""Fallbacks of a precision in which no node is left, and the file to measure an artifact with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from builder.build import BuildPlan, Verified, build_verified
from builder.failures import is_out_of_memory
from builder.formats import ArtifactBuilder, BuildJob
from builder.formats.onnx import Onnx
from builder.formats.tensorrt import Rtx
from builder.sources.images import builtin_golden
from builder.verification.context import verification_context
from tests.errors import raises
from tests.fixture_types import Command
from tritonkit.errors import ArtifactError, CheckFailedError
from tritonkit.export_options import ExportOptions
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, RTX
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

HEAVY = ("Conv", "Gemm")
"""All multiplying operators of the residual network."""


def built_in_fp16(
    kind: ArtifactBuilder,
    name: str,
    job: BuildJob,
    keep: tuple[str, ...] = (),
    allowed: bool = True,
    strict: bool = False,
) -> Verified:
    golden = builtin_golden(job.source.spec.preprocess)
    context = verification_context(job.source, golden, job.max_batch)
    options = {"keep_fp32": keep, "repair": allowed, "strict": strict}
    request = ExportOptions.model_validate({name: "fp16", **options})
    verified = build_verified(BuildPlan(request, kind, job, context, context.golden.images))
    verified.runner.close()
    return verified


def test_export_falls_back_to_fp32_when_nothing_is_left_in_fp16(job: BuildJob) -> None:
    verdict = built_in_fp16(Rtx(), "rtx", job, HEAVY).verdict
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "fp32", "fp16")
    first, *tries, last = verdict.tries
    assert (first.precision, last.precision) == ("fp32", "fp32")
    assert {attempt.precision for attempt in tries} == {"fp16"}
    assert {problem.code for attempt in tries for problem in attempt.problems} == {"precision.nothing_reduced"}


def test_graph_is_not_called_fp16_when_nothing_is_left_in_it(job: BuildJob) -> None:
    with raises(ArtifactError, "precision.nothing_reduced"):
        built_in_fp16(Onnx(), "onnx", job, HEAVY, allowed=False)


def test_strict_export_is_refused_when_nothing_is_left_in_fp16(job: BuildJob) -> None:
    with raises(CheckFailedError, "verdict.no_attempt") as caught:
        built_in_fp16(Rtx(), "rtx", job, HEAVY, strict=True)
    assert [problem.code for problem in caught.value.problems] == ["precision.nothing_reduced"]


def test_last_line_names_the_closest_attempt_when_another_precision_is_published(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    limits = ["--limit", "fp16.max_abs=1e-7", "--limit", "fp16.relative=1e-7"]
    arguments = ["builder", "export", checkpoint, "--onnx", "fp16", *limits, "--max-batch", 2]
    result = command(*arguments, "--repository", tmp_path / "repository")
    assert result.exit_code == 0, result.stderr
    line = r"fp16 failed \((relative )?error \S+, limit 1e-07, (at|in) .*; all decisions kept\); published in fp32"
    assert re.fullmatch(line, result.stdout.splitlines()[-1])
    strict = command(*arguments, "--strict", "--repository", tmp_path / "strict", "--json")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["error"]["code"] == "verdict.failed"
    assert "fp16 failed (" in strict.stderr
    assert not list((tmp_path / "strict").rglob("model.onnx"))


class WithEngine(Onnx):
    """Writes an engine next to its graph and runs only the engine, as on a GPU machine with ONNX Runtime for CPUs."""

    def write(self, job: BuildJob) -> Path:
        shutil.copyfile(job.graph, job.folder / RTX.file)
        return super().write(job)

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner:
        return OnnxRuntimeRunner(artifact.with_name(RTX.file), spec=job.source.spec, spinning=False)


def test_engine_is_measured_when_it_was_run(job: BuildJob) -> None:
    built = built_in_fp16(WithEngine(), "rtx", job)
    assert (job.folder / ONNX.file).is_file()
    assert built.file == job.folder / RTX.file


def test_simulation_is_measured_when_the_artifact_cannot_run_here(job: BuildJob) -> None:
    assert built_in_fp16(Onnx(), "onnx", job).file.name == "model.simulated.onnx"


@pytest.mark.parametrize(
    ("message", "is_memory"),
    [
        ("IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)", True),
        ("Cuda Runtime (out of memory)", True),
        ("std::bad_alloc", True),
        ("bad.onnx: TensorRT 11.1 does not take operator Resize (node 'up'): antialias", False),
    ],
)
def test_out_of_memory_messages_are_recognized(message: str, is_memory: bool) -> None:
    assert is_out_of_memory(message) is is_memory
