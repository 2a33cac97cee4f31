"""A failed build ends the export: only wrong answers are a reason for a fallback precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from builder.build import BuildPlan, build_verified
from builder.failures import BuildStoppedError, CannotBuildError
from builder.formats import ArtifactBuilder, BuildJob, builder_for
from builder.formats.onnx import Onnx
from builder.formats.tensorrt import Rtx
from builder.onnx.export import onnx_from_network
from builder.sources.images import builtin_golden
from builder.verification.context import VerificationContext, verification_context
from tests.errors import raises
from tests.fixture_types import Command, MakeNetwork
from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.export_options import ExportOptions
from tritonkit.repository.build_record import BuildOptions
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, Precision

STRICT = LIMITS["fp16"].model_copy(update={"relative": 1e-9})
"""A limit that fp16 cannot keep."""


class Failing(Onnx):
    """Writes its graph, but raises an error in one precision."""

    def __init__(self, precision: Precision, error: TritonkitError, casts: bool = True) -> None:
        self.precision, self.error = precision, error
        self.format = ONNX.model_copy(update={"casts": casts, "takes_bf16": True})  # type: ignore[misc]
        self.written: list[Precision] = []

    def write(self, job: BuildJob) -> Path:
        self.written.append(job.precision)
        if job.precision == self.precision:
            raise self.error
        return super().write(job)

    def open_runner(self, artifact: Path, job: BuildJob) -> Runner | None:
        return super().open_runner(artifact, job) if job.precision == "fp32" else None


def context_for(job: BuildJob, fp16_passes: bool = True) -> VerificationContext:
    golden = builtin_golden(job.source.spec.preprocess)
    return verification_context(job.source, golden, job.max_batch, None if fp16_passes else {**LIMITS, "fp16": STRICT})


def verdict_of_build(
    kind: ArtifactBuilder, job: BuildJob, precision: Precision, fp16_passes: bool = True, name: str = "trt"
) -> Verdict:
    context = context_for(job, fp16_passes)
    request = ExportOptions.model_validate({name: precision})
    verified = build_verified(BuildPlan(request, kind, job, context, context.golden.images))
    verified.runner.close()
    return verified.verdict


@pytest.mark.parametrize("error", [CannotBuildError("refused by the parser"), BuildStoppedError("out of memory")])
def test_export_ends_when_the_requested_precision_cannot_be_built(job: BuildJob, error: TritonkitError) -> None:
    kind = Failing("fp16", error)
    with pytest.raises(type(error)) as caught:
        verdict_of_build(kind, job, "fp16")
    assert caught.value is error
    assert kind.written == ["fp16"]


def test_export_ends_when_the_runtime_computes_in_another_precision(job: BuildJob) -> None:
    error = CannotBuildError("expected bf16, but runs in f32", code="openvino.other_precision")
    kind = Failing("bf16", error, casts=False)
    with raises(CannotBuildError, "openvino.other_precision"):
        verdict_of_build(kind, job, "bf16", name="openvino")
    assert kind.written == ["bf16"]


def test_fallback_precision_is_skipped_when_the_target_cannot_build_it(job: BuildJob) -> None:
    kind = Failing("bf16", CannotBuildError("hardware without bf16"))
    verdict = verdict_of_build(kind, job, "fp16", fp16_passes=False)
    assert (verdict.passed, verdict.precision, verdict.asked) == (True, "fp32", "fp16")
    assert [tried.precision for tried in verdict.tries] == ["fp32", *["fp16"] * 4, "bf16", "fp32"]
    assert verdict.tries[-2].problems[0].message == "hardware without bf16"
    assert kind.written == ["bf16", "fp32"]


def test_export_ends_when_the_build_of_a_fallback_is_interrupted(job: BuildJob) -> None:
    error = BuildStoppedError("the time limit")
    kind = Failing("bf16", error)
    with pytest.raises(BuildStoppedError) as caught:
        verdict_of_build(kind, job, "fp16", fp16_passes=False)
    assert caught.value is error
    assert kind.written == ["bf16"]


def test_export_ends_when_tensorrt_does_not_support_the_gpu(job: BuildJob) -> None:
    kind = Rtx(BuildOptions(compute_capabilities=("3.5",)))
    with raises(CannotBuildError, "tensorrt.build_refused", "3.5"):
        verdict_of_build(kind, job, "fp16", name="rtx")


def test_export_publishes_nothing_when_its_build_is_stopped(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    options = ["--repository", tmp_path / "repository", "--max-batch", 4]
    result = command("builder", "export", checkpoint, "--rtx", "fp16", "--time-limit-s", 0.05, *options)
    assert result.exit_code == 3, result.stderr
    assert "0.05 s" in result.stderr
    assert not (tmp_path / "repository/pets").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--opt-batch", "8"], "the optimal batch size is 8, but the maximum is 4"),
        (["--version-compatible"], "no version- or hardware-compatible engines"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_work(
    command: Command, checkpoint: Path, tmp_path: Path, options: list[str], expected: str
) -> None:
    arguments = ["--repository", tmp_path / "repository", "--max-batch", 4]
    result = command("builder", "export", checkpoint, "--rtx", "fp16", *arguments, *options)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "exporting to ONNX" not in result.stderr


def test_export_in_a_container_fails_with_an_external_error_when_docker_does_not_answer(
    command: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    options = ["--repository", tmp_path / "repository"]
    result = command("builder", "export", checkpoint, "--trt", "fp16", "--in-container", *options)
    assert result.exit_code == 3
    assert "no Docker daemon answers" in result.stderr


def test_network_is_refused_when_its_weights_exceed_one_onnx_file(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network("test_resnet")
    network.backbone.more = nn.Linear(30_000, 20_000, device="meta")  # which takes no memory
    with raises(ArtifactError, "onnx.too_large", "2.4 GB"):
        onnx_from_network(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_openvino_bf16_is_refused_before_the_build_when_the_cpu_lacks_bf16(job: BuildJob) -> None:
    from tritonkit.runtimes.openvino import has_bf16

    bf16 = BuildJob(job.source, job.graph, "bf16", job.folder, 4, None, job.report)
    if has_bf16():
        builder_for("openvino").check_job(bf16)
    else:
        with raises(CannotBuildError, "openvino.bf16_unsupported"):
            builder_for("openvino").check_job(bf16)
