"""What a repair makes of a precision that has nothing left to compute in it, and which file answers for an artifact."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from builder.failures import tells_of_memory
from builder.formats import Format, Job
from builder.formats.onnx import Onnx
from builder.formats.tensorrt import ENGINE, Rtx
from builder.proving.proof import case_of
from builder.repair import BuildAttempt, FallbackOptions, build_verified
from builder.sources.images import builtin_golden
from builder.targets import FormatName, Target
from model.errors import ArtifactError, CheckFailedError
from model.runners.base import Runner
from model.runners.onnxruntime import OnnxRuntimeRunner

HEAVY = ("Conv", "Gemm")
"""All that the residual network multiplies with."""


Command = Callable[..., Result]


def made_in_fp16(
    kind: Format, name: FormatName, job: Job, keep: tuple[str, ...] = (), allowed: bool = True, strict: bool = False
) -> BuildAttempt:
    golden = builtin_golden(job.source.spec.preprocess)
    case = case_of(job.source, golden, job.max_batch)
    repair = FallbackOptions(case.golden.images, keep, allowed, strict=strict)
    made = build_verified(case, job, Target(format=name, precision="fp16"), kind, repair)
    made.verified.runner.close()
    return made


def test_export_goes_on_to_fp32_when_nothing_is_left_in_fp16(job: Job) -> None:
    verdict = made_in_fp16(Rtx(), "rtx", job, HEAVY).verdict
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "fp32", "fp16")
    first, *tries, last = verdict.tries
    assert (first.precision, last.precision) == ("fp32", "fp32")
    assert {one.precision for one in tries} == {"fp16"}
    assert all("would be left in fp16" in one.problems[0].message for one in tries)


def test_graph_is_not_called_fp16_when_nothing_is_left_in_it(job: Job) -> None:
    with pytest.raises(ArtifactError, match="no convolution or matrix product would be left in fp16"):
        made_in_fp16(Onnx(), "onnx", job, HEAVY, allowed=False)


def test_strict_export_is_refused_when_nothing_is_left_in_fp16(job: Job) -> None:
    with pytest.raises(CheckFailedError, match=r"no try of it passed: .* would be left in fp16; nothing was published"):
        made_in_fp16(Rtx(), "rtx", job, HEAVY, strict=True)


def test_last_line_names_the_nearest_try_when_another_precision_is_published(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    limits = ["--limit", "fp16.max_abs=1e-7", "--limit", "fp16.relative=1e-7"]
    words = ["builder", "export", checkpoint, "--onnx", "fp16", *limits, "--max-batch", 2]
    ran = command(*words, "--repository", tmp_path / "repository")
    assert ran.exit_code == 0, ran.stderr
    said = r"fp16 failed \((relative )?error \S+, limit 1e-07, (at|in) .*; all decisions kept\); published in fp32"
    assert re.fullmatch(said, ran.stdout.splitlines()[-1])
    strict = command(*words, "--strict", "--repository", tmp_path / "strict")
    assert strict.exit_code == 1
    assert "nothing was published" in strict.stderr
    assert "fp16 failed (" in strict.stderr
    assert not list((tmp_path / "strict").rglob("model.onnx"))


class WithEngine(Onnx):
    """Writes an engine beside its graph that alone is asked, as on a GPU machine with an ONNX Runtime of the CPU."""

    def write(self, job: Job) -> Path:
        shutil.copyfile(job.graph, job.folder / ENGINE)
        return super().write(job)

    def open_runner(self, artifact: Path, job: Job) -> Runner:
        return OnnxRuntimeRunner(artifact.with_name(ENGINE), spec=job.source.spec, spinning=False)


def test_engine_is_measured_when_it_alone_was_asked(job: Job) -> None:
    made = made_in_fp16(WithEngine(), "rtx", job)
    assert made.artifact.name == Onnx.artifact
    assert made.verified.file == job.folder / ENGINE


def test_simulation_is_measured_when_nothing_here_rounds_as_the_artifact_does(job: Job) -> None:
    assert made_in_fp16(Onnx(), "onnx", job).verified.file.name == "model.simulated.onnx"


@pytest.mark.parametrize(
    ("said", "short"),
    [
        ("IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)", True),
        ("Cuda Runtime (out of memory)", True),
        ("std::bad_alloc", True),
        ("bad.onnx: TensorRT 11.1 does not take operator Resize (node 'up'): antialias", False),
    ],
)
def test_lack_of_memory_is_told_from_a_graph_that_is_not_taken(said: str, short: bool) -> None:
    assert tells_of_memory(said) is short
