"""Build and verify an artifact, with more nodes in fp32 or a higher precision where its precision changes answers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from builder.failures import CannotBuildError
from builder.formats import ArtifactBuilder, BuildJob
from builder.onnx.simulation import simulated_runner, simulation_of
from builder.precision.precision_search import PrecisionSearch, PrecisionStep
from builder.verification.context import CachingRunner, VerificationContext
from tritonkit.comparison import MIDDLE_BATCH
from tritonkit.errors import ArtifactError, CheckFailedError, Problem, TritonkitError, first_line
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.verdict import Attempt, LimitExcess, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision, ReducedType, Target, format_of, target_from
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner


@dataclass(frozen=True)
class FallbackOptions:
    """What may be done where a precision changes answers."""

    images: ImageArray
    """uint8 [N, H, W, 3], to measure value ranges and calibrate int8 on."""
    keep_fp32: Sequence[str] = ()
    """Patterns of nodes, operators and tensors to keep in fp32."""
    allowed: bool = True
    """Whether more nodes, or the whole graph, may be computed in a higher precision."""
    force: bool = False
    """Write the artifact although it fails."""
    strict: bool = False
    """Accept no other precision."""


@dataclass(frozen=True)
class BuildAttempt:
    """An artifact in the version folder, with its verdict."""

    artifact: Path
    job: BuildJob
    """How it was built: `job.graph` is the ONNX graph in the precision of the artifact."""
    verified: VerifiedArtifact

    @property
    def verdict(self) -> Verdict:
        """The result of the comparison."""
        return self.verified.verdict


@dataclass(frozen=True)
class VerifiedArtifact:
    """A verdict, and the runner that it is about."""

    verdict: Verdict
    runner: Runner
    file: Path
    """The file to measure quality with, which opens as a runner here; for a plan it may be the graph of the plan."""

    def with_verdict_fields(self, **update: object) -> VerifiedArtifact:
        """A copy with fields of the verdict replaced."""
        return replace(self, verdict=self.verdict.model_copy(update=update))


def build_verified(
    context: VerificationContext,
    job: BuildJob,
    target: Target,
    artifact_builder: ArtifactBuilder,
    fallback: FallbackOptions,
) -> BuildAttempt:
    """Build the artifact and verify it, with the fallbacks that are allowed.

    Where a precision changes answers, more nodes stay in fp32; if that does not help, the next higher precision is
    used. Raises CannotBuildError and ExternalError where a build fails: another precision would not help.
    """
    attempts: list[Attempt] = []
    # A format without casts can compute an fp16 source in fp32; quantised values stay quantised.
    reduced_before = job.source.precision != "fp32" and (
        artifact_builder.format.casts or job.source.precision in (target.precision, "int8")
    )
    if reduced_before:  # exported unchanged, and verified in its own precision
        target = target_from({target.format: job.source.precision})
    if (
        target.precision != "fp32"
        and not reduced_before
        and (failed := _failed_fp32_graph(context, job, attempts)) is not None
    ):
        failed = failed.with_verdict_fields(format=target.format, asked=target.precision, tries=tuple(attempts))
        artifact = job.folder / artifact_builder.format.served.file
        built = BuildAttempt(artifact, replace(job, precision="fp32"), failed)
        return _write_if_forced(built, artifact_builder, fallback)
    built = _build_with_fallback(context, job, target, artifact_builder, fallback, attempts)
    built = _write_if_forced(built, artifact_builder, fallback)
    requested = None if built.verdict.precision == target.precision else target.precision
    recorded = tuple(attempts) if target.precision != "fp32" else ()
    fields = {"format": target.format, "asked": requested, "tries": recorded}
    return replace(built, verified=built.verified.with_verdict_fields(**fields))


def _build_with_fallback(
    context: VerificationContext,
    job: BuildJob,
    target: Target,
    artifact_builder: ArtifactBuilder,
    fallback: FallbackOptions,
    attempts: list[Attempt],
) -> BuildAttempt:
    """The first attempt that passes, else the last. Every attempt is added to `attempts`."""
    built: BuildAttempt | None = None
    unavailable: set[Precision] = set()
    for number, step in enumerate(_allowed_steps(artifact_builder, job, target, fallback), 1):
        if step.precision in unavailable:
            continue
        job.report(f"attempt {number}: {target.format} {step.precision}, {step.description}")
        if built is not None:
            built.verified.runner.close()
        started = time.monotonic()
        try:
            built, attempt = _run_step(context, job, artifact_builder, step)
        except ArtifactError as error:
            if not fallback.allowed or step.precision == "fp32" or is_fatal(step, target, error):
                raise
            if isinstance(error, CannotBuildError):
                unavailable.add(step.precision)
            attempts.append(_failed_attempt(step, error, started))
            continue
        attempts.append(attempt)
        if built.verdict.passed or not fallback.allowed:
            break
    if built is None:
        raise _no_attempt_error(target, fallback, attempts)
    return built


def _no_attempt_error(target: Target, fallback: FallbackOptions, attempts: Sequence[Attempt]) -> TritonkitError:
    """The error where no step gives a graph that loads."""
    if fallback.strict and attempts:
        return CheckFailedError(
            f"{target}: no attempt passed: {attempts[-1].problems[0].message}; nothing was published",
            code="verdict.no_attempt",
            problems=attempts[-1].problems,
        )
    return ArtifactError(f"{target}: it cannot be built from this graph", code="artifact.no_attempt")


def _allowed_steps(
    artifact_builder: ArtifactBuilder, job: BuildJob, target: Target, fallback: FallbackOptions
) -> Iterator[PrecisionStep]:
    """The planned steps, up to the first of another precision where the export is strict."""
    steps = _planned_steps(artifact_builder, job, target, fallback)
    return takewhile(lambda step: step.precision == target.precision, steps) if fallback.strict else steps


def _planned_steps(
    artifact_builder: ArtifactBuilder, job: BuildJob, target: Target, fallback: FallbackOptions
) -> Iterator[PrecisionStep]:
    if target.precision in ("fp32", job.source.precision) or (
        artifact_builder.format.casts and job.source.precision != "fp32"
    ):
        return iter([_unchanged_step(job, target)])
    if not artifact_builder.format.casts and target.precision != "int8":
        return iter([_unchanged_step(job, target), _unchanged_step(job, Target(format=target.format))])
    search = PrecisionSearch(job.graph, fallback.images, fallback.keep_fp32)
    casts: tuple[ReducedType, ...] = ("fp16", "bf16") if artifact_builder.format.takes_bf16 else ("fp16",)
    return search.steps(
        target.precision, artifact_builder.format.dialect, casts if artifact_builder.format.casts else ()
    )


def _unchanged_step(job: BuildJob, target: Target) -> PrecisionStep:
    """The graph of the source, unchanged. Where the precision is not the graph's own, the runtime computes in it."""

    def copy_graph(path: Path) -> Sequence[str]:
        path.write_bytes(job.graph.read_bytes())
        return ()  # no node is kept in fp32 by choice

    return PrecisionStep(target.precision, "the whole model", copy_graph)


def _run_step(
    context: VerificationContext, job: BuildJob, artifact_builder: ArtifactBuilder, step: PrecisionStep
) -> tuple[BuildAttempt, Attempt]:
    """Verify a simulation of the step's graph, then the artifact itself where it runs here."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(dir=job.graph.parent))
    graph = folder / job.graph.name
    fp32_nodes = tuple(step.write(graph))
    step_job = replace(job, graph=graph, precision=step.precision)
    can_simulate = artifact_builder.format.casts and step.precision in ("fp16", "bf16")
    verified = _verify_simulation(context, step_job) if can_simulate else None
    if verified is None or verified.verdict.passed:
        verified = _verify_artifact(context, step_job, artifact_builder) or verified
    if verified is None:
        raise ArtifactError(
            f"{artifact_builder.format.name} {step.precision}: nothing on this machine can run it, so it cannot be "
            "verified",
            code="artifact.cannot_verify",
        )
    attempt = _attempt_record(step, verified.verdict, fp32_nodes, started)
    return BuildAttempt(job.folder / artifact_builder.format.served.file, step_job, verified), attempt


def _verify_simulation(context: VerificationContext, job: BuildJob) -> VerifiedArtifact:
    runner = CachingRunner(simulated_runner(job.graph, context.spec, job.graph.parent))
    verdict = context.verify(runner, job.precision, job.graph, causes=False)
    verified = VerifiedArtifact(verdict, runner, Path(runner.origin))
    return verified.with_verdict_fields(proven_by=f"a simulation that rounds to {job.precision} where hardware would")


def _verify_artifact(
    context: VerificationContext, job: BuildJob, artifact_builder: ArtifactBuilder
) -> VerifiedArtifact | None:
    """The verdict of the artifact itself; None where it does not run on this machine."""
    artifact = artifact_builder.write(job)
    opened = artifact_builder.open_runner(artifact, job)
    if opened is None:
        return None
    runner = CachingRunner(opened)
    try:
        verdict = context.verify(runner, job.precision, job.graph, causes=job.precision == "fp32")
    except BaseException:
        runner.close()
        raise
    verified = VerifiedArtifact(verdict, runner, _measurable_file(opened, artifact, job))
    return verified.with_verdict_fields(proven_by=artifact_builder.verification_method(job))


def _measurable_file(opened: Runner, artifact: Path, job: BuildJob) -> Path:
    """The file to measure quality with: that of the runner, else the closest one that opens here."""
    origin = Path(opened.origin)
    if origin.is_file():  # may be an engine next to the artifact, which rounds where its graph does not on this CPU
        return origin
    known = format_of(artifact)
    if known is not None and known.self_contained:  # one of several runners of a WorstCaseRunner
        return artifact
    rounded = simulation_of(job.graph, job.graph.parent)
    return rounded if rounded.is_file() else job.graph


def _failed_fp32_graph(context: VerificationContext, job: BuildJob, attempts: list[Attempt]) -> VerifiedArtifact | None:
    """The verdict of the fp32 graph where it fails, which the precision cannot explain; None where it passes.

    A small fault of the graph could hide within the limits of a reduced precision, so the fp32 graph comes first.
    """
    started = time.monotonic()
    job.report("comparing the fp32 graph with the checkpoint")
    runner = OnnxRuntimeRunner(job.graph, spec=context.spec, spinning=False)
    # The largest batch is tested on the reduced graph, which has the same shapes.
    small = replace(context, max_batch=min(MIDDLE_BATCH, context.max_batch))
    verdict = small.verify(runner, "fp32", job.graph)
    step = PrecisionStep("fp32", "the graph before its precision is reduced", _write_nothing)
    attempts.append(_attempt_record(step, verdict, (), started))
    return None if verdict.passed else VerifiedArtifact(verdict, runner, job.graph)


def _write_nothing(path: Path) -> Sequence[str]:
    return ()


def is_fatal(step: PrecisionStep, target: Target, error: ArtifactError) -> bool:
    """Whether the requested precision cannot be built.

    A precision that was not requested, such as bf16 after an fp16 that failed, is skipped instead.
    """
    return isinstance(error, CannotBuildError) and step.precision == target.precision


def _failed_attempt(step: PrecisionStep, error: ArtifactError, started: float) -> Attempt:
    """The record of an attempt whose graph could not be loaded."""
    problem = Problem(error.code, first_line(error))
    return Attempt(
        precision=step.precision,
        how=step.description,
        passed=False,
        nodes=step.nodes,
        seconds=round(time.monotonic() - started, 2),
        problems=(problem,),
        miss=LimitExcess(words=problem.message),
    )


def _write_if_forced(built: BuildAttempt, artifact_builder: ArtifactBuilder, fallback: FallbackOptions) -> BuildAttempt:
    """Write the artifact where it was not written because its graph failed, but the export is forced."""
    if fallback.force and not built.artifact.exists():
        artifact_builder.write(built.job)
    return built


def _attempt_record(step: PrecisionStep, verdict: Verdict, fp32_nodes: tuple[str, ...], started: float) -> Attempt:
    return Attempt(
        precision=step.precision,
        how=step.description,
        passed=verdict.passed,
        kept=fp32_nodes,
        nodes=step.nodes,
        max_abs=max((comparison.max_abs for comparison in verdict.artifact_comparisons), default=None),
        relative=verdict.relative,
        seconds=round(time.monotonic() - started, 2),
        problems=verdict.problems,
        miss=verdict.miss,
    )
