"""Build an artifact and verify it; where its precision changes answers, with more nodes in fp32 or a higher precision.

`build` writes the artifact of one attempt, `verify` compares it with the source, and `build_verified` goes from
attempt to attempt until one passes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from builder.failures import CannotBuildError
from builder.formats import ArtifactBuilder, BuildJob
from builder.onnx.simulation import simulated_runner, simulation_of
from builder.precision.precision_search import PrecisionSearch, PrecisionStep, whole_model
from builder.verification.context import CachingRunner, VerificationContext
from tritonkit.comparison import MIDDLE_BATCH
from tritonkit.errors import ArtifactError, CheckFailedError, InputError, Problem, first_line
from tritonkit.export_options import ExportOptions
from tritonkit.images.preprocess import ImageArray
from tritonkit.repository.verdict import Attempt, LimitExcess, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision, ReducedType, Target, format_of
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner


@dataclass(frozen=True)
class BuildPlan:
    """What to build, and how to verify it."""

    request: ExportOptions
    builder: ArtifactBuilder
    job: BuildJob
    """The job in the requested precision; `job.graph` is the graph of the source."""
    context: VerificationContext
    calibration: ImageArray
    """uint8 [N, H, W, 3], to measure value ranges and calibrate int8 on."""

    @property
    def target(self) -> Target:
        """The target of the attempts: a reduced source is exported unchanged, in its own precision."""
        requested, own = self.request.target, self.job.source.precision
        # A format without casts can compute an fp16 source in fp32; quantised values stay quantised.
        is_kept = own != "fp32" and (self.builder.format.casts or own in (requested.precision, "int8"))
        if not is_kept:
            return requested
        if own not in (precisions := requested.record.precisions):
            raise InputError(f"--{requested.format} {own}: expected {', '.join(precisions)}", code="option.precision")
        return Target(format=requested.format, precision=own)


@dataclass(frozen=True)
class Built:
    """The result of one attempt to build."""

    job: BuildJob
    """How it was built: `job.graph` is the ONNX graph in the precision of the artifact."""
    fp32_nodes: tuple[str, ...]
    simulated: Verified | None
    """The verdict of a simulation of the graph; None for a format that is not simulated."""
    artifact: Path | None
    """None where the simulation failed, so that the artifact was not built."""


@dataclass(frozen=True)
class Verified:
    """A verdict, the runner that it is about, and how the artifact was built."""

    job: BuildJob
    verdict: Verdict
    runner: Runner
    file: Path
    """The file to measure quality with; for a plan it may be the graph of the plan."""


def build_verified(plan: BuildPlan) -> Verified:
    """The first attempt that passes, else the last; its verdict records all attempts.

    Where a precision changes answers, more nodes stay in fp32; if that does not help, the next higher precision is
    used. Raises CannotBuildError and ExternalError where a build fails: another precision would not help.
    """
    request, target, report = plan.request, plan.target, plan.job.report
    attempts: list[Attempt] = []
    verified: Verified | None = None
    if target.precision not in ("fp32", plan.job.source.precision):
        verified = _verify_fp32_graph(plan, attempts)
    unavailable: set[Precision] = set()
    for number, step in enumerate(_steps(plan) if verified is None else (), 1):
        if step.precision in unavailable:
            continue
        report(f"attempt {number}: {target.format} {step.precision}, {step.description}")
        if verified is not None:
            verified.runner.close()  # a plan in a container would take memory of the GPU from the next build
        started = time.monotonic()
        try:
            built = build(plan, step)
            verified = verify(plan, built)
        except ArtifactError as error:
            if not request.repair or step.precision == "fp32":
                raise
            if isinstance(error, CannotBuildError):
                if step.precision == target.precision:
                    raise
                unavailable.add(step.precision)  # it was not requested, such as bf16 after an fp16 that failed
            problem = Problem(error.code, first_line(error))
            attempts.append(
                Attempt(
                    precision=step.precision,
                    how=step.description,
                    passed=False,
                    nodes=step.nodes,
                    seconds=round(time.monotonic() - started, 2),
                    problems=(problem,),
                    miss=LimitExcess(words=problem.message),
                )
            )
            continue
        attempts.append(_attempt(step, verified.verdict, built.fp32_nodes, started))
        if verified.verdict.passed or not request.repair:
            break
    if verified is None:
        problems = attempts[-1].problems if attempts else ()
        reason = f"no attempt passed: {problems[0].message}" if problems else "it cannot be built from this graph"
        message = f"{target}: {reason}; nothing was published"
        if request.strict and attempts:
            raise CheckFailedError(message, code="verdict.no_attempt", problems=problems)
        raise ArtifactError(message, code="artifact.no_attempt", problems=problems)
    if request.force and not (plan.job.folder / plan.builder.format.served.file).exists():
        plan.builder.write(verified.job)  # it was not written because its graph failed
    asked = None if verified.verdict.precision == target.precision else target.precision
    tries = tuple(attempts) if target.precision != "fp32" else ()
    update = {"format": target.format, "asked": asked, "tries": tries}
    return replace(verified, verdict=verified.verdict.model_copy(update=update))


def build(plan: BuildPlan, step: PrecisionStep) -> Built:
    """Write the graph of a step, and build the artifact from it unless a simulation of the graph fails."""
    graph = Path(tempfile.mkdtemp(dir=plan.job.graph.parent)) / plan.job.graph.name
    fp32_nodes = tuple(step.write(graph))
    job = replace(plan.job, graph=graph, precision=step.precision)
    simulated = None
    if plan.builder.format.casts and step.precision in ("fp16", "bf16"):
        runner = CachingRunner(simulated_runner(graph, plan.context.spec, graph.parent))
        verdict = plan.context.verify(runner, job.precision, graph, causes=False)
        method = f"a simulation that rounds to {job.precision} where hardware would"
        verdict = verdict.model_copy(update={"proven_by": method})
        simulated = Verified(job, verdict, runner, Path(runner.origin))
    is_hopeless = simulated is not None and not simulated.verdict.passed
    return Built(job, fp32_nodes, simulated, None if is_hopeless else plan.builder.write(job))


def verify(plan: BuildPlan, built: Built) -> Verified:
    """Compare the artifact with the source; where it does not run on this machine, its simulation counts."""
    job, artifact = built.job, built.artifact
    opened = None if artifact is None else plan.builder.open_runner(artifact, job)
    if artifact is None or opened is None:
        if built.simulated is None:
            raise ArtifactError(
                f"{plan.builder.format.name} {job.precision}: nothing on this machine can run it, so it cannot be "
                "verified",
                code="artifact.cannot_verify",
            )
        return built.simulated
    runner = CachingRunner(opened)
    try:
        graph = job.graph if plan.builder.is_graph else None
        verdict = plan.context.verify(runner, job.precision, graph, causes=job.precision == "fp32")
    except BaseException:
        runner.close()
        raise
    verdict = verdict.model_copy(update={"proven_by": plan.builder.verification_method(job)})
    # The file of the runner may be an engine next to the artifact, which rounds where its graph does not on this CPU.
    file, record, rounded = Path(opened.origin), format_of(artifact), simulation_of(job.graph, job.graph.parent)
    if not file.is_file():  # one of several runners of a WorstCaseRunner
        is_alone = record is not None and record.self_contained
        file = artifact if is_alone else rounded if rounded.is_file() else job.graph
    return Verified(job, verdict, runner, file)


def _verify_fp32_graph(plan: BuildPlan, attempts: list[Attempt]) -> Verified | None:
    """The verdict of the fp32 graph where it fails, which the precision cannot explain; None where it passes.

    A small fault of the graph could hide within the limits of a reduced precision, so the fp32 graph comes first.
    """
    started, job, context = time.monotonic(), plan.job, plan.context
    job.report("comparing the fp32 graph with the checkpoint")
    runner = OnnxRuntimeRunner(job.graph, spec=context.spec, spinning=False)
    # The largest batch is tested on the reduced graph, which has the same shapes.
    small = replace(context, max_batch=min(MIDDLE_BATCH, context.max_batch))
    verdict = small.verify(runner, "fp32", job.graph)
    step = whole_model(job.graph, "fp32", "the graph before its precision is reduced")
    attempts.append(_attempt(step, verdict, (), started))
    return None if verdict.passed else Verified(replace(job, precision="fp32"), verdict, runner, job.graph)


def _steps(plan: BuildPlan) -> Iterable[PrecisionStep]:
    """The steps from the target's precision up to fp32; those of the target's precision alone where it is strict."""
    target, record, graph = plan.target, plan.builder.format, plan.job.graph
    if target.precision in ("fp32", plan.job.source.precision):
        return [whole_model(graph, target.precision)]
    if record.casts or target.precision == "int8":
        search = PrecisionSearch(graph, plan.calibration, plan.request.keep_fp32)
        casts: tuple[ReducedType, ...] = ("fp16", "bf16") if record.takes_bf16 else ("fp16",)
        steps: Iterable[PrecisionStep] = search.steps(target.precision, record.dialect, casts if record.casts else ())
    else:  # the runtime computes in another precision than that of the graph
        steps = [whole_model(graph, target.precision), whole_model(graph, "fp32")]
    return takewhile(lambda step: step.precision == target.precision, steps) if plan.request.strict else steps


def _attempt(step: PrecisionStep, verdict: Verdict, fp32_nodes: tuple[str, ...], started: float) -> Attempt:
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
