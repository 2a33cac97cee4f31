"""An artifact in the wanted precision with its verdict, or, where that fails, in the nearest one that passes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from builder.failures import CannotBuildError
from builder.formats import Format, Job
from builder.precision.autocast import autocast
from builder.precision.cast import Reduced, reduced
from builder.precision.ladder import Converter, Ladder, Step
from builder.precision.simulate import simulated_runner, simulation_of
from builder.proving.proof import CachingRunner, VerificationContext
from builder.proving.verdict import Attempt, Miss, Verdict
from builder.targets import Precision, Target, target_from
from model.comparison import MIDDLE_BATCH
from model.errors import ArtifactError, CheckFailedError, Problem, TritonkitError, first_line
from model.preprocess import ImageArray
from model.runners.base import Runner
from model.runners.onnxruntime import OnnxRuntimeRunner

_SELF_CONTAINED = (".onnx", ".xml", ".pt")
"""Artifacts that carry their spec, and so can be opened by themselves."""
CONVERTERS: dict[str, Converter] = {"edges": reduced, "autocast": autocast}


@dataclass(frozen=True)
class Repair:
    """How a precision is reached."""

    images: ImageArray
    """uint8 [N, H, W, 3]: ranges are measured and int8 is calibrated on them."""
    keep: Sequence[str] = ()
    """Patterns of nodes, operators and tensors to keep in fp32."""
    allowed: bool = True
    """Whether more may be given up than was asked."""
    force: bool = False
    """Whether the artifact is wanted although it fails."""
    strict: bool = False
    """Whether no other precision will do."""
    converter: str = "edges"
    """Who places the casts: `edges`, the kit's own, or `autocast`, NVIDIA ModelOpt's."""


@dataclass(frozen=True)
class BuildAttempt:
    """An artifact in the version folder, and what was found of it."""

    artifact: Path
    job: Job
    """What it was made from: `job.graph` is the ONNX graph in its precision."""
    judged: VerifiedArtifact

    @property
    def verdict(self) -> Verdict:
        """What was found."""
        return self.judged.verdict


@dataclass(frozen=True)
class VerifiedArtifact:
    """A verdict, and what answered for the artifact."""

    verdict: Verdict
    runner: Runner
    file: Path
    """What `train test --from` opens to measure the same: a plan's graph, where the plan is not opened by its file."""

    def noted(self, **update: object) -> VerifiedArtifact:
        """The same, with fields of the verdict replaced."""
        return replace(self, verdict=self.verdict.model_copy(update=update))


def make(case: VerificationContext, job: Job, target: Target, kind: Format, repair: Repair) -> BuildAttempt:
    """Write the artifact and judge it; a reduced precision that fails gives up nodes, then itself.

    Raises CannotBuildError and ExternalError where a build fails: that says nothing of the precision, and would fail
    again in the next one.
    """
    tries: list[Attempt] = []
    # A format that casts nothing can compute what came in fp16 in fp32; quantised values stay what they are.
    reduced_before = job.source.precision != "fp32" and (
        kind.casts or job.source.precision in (target.precision, "int8")
    )
    if reduced_before:  # exported as it is, and judged as what it is
        target = target_from({target.format: job.source.precision})
    if target.precision != "fp32" and not reduced_before and (broken := _broken_in_fp32(case, job, tries)) is not None:
        broken = broken.noted(format=target.format, asked=target.precision, tries=tuple(tries))
        return _forced(BuildAttempt(job.folder / kind.artifact, replace(job, precision="fp32"), broken), kind, repair)
    made = _forced(_nearest(case, job, target, kind, repair, tries), kind, repair)
    asked = None if made.verdict.precision == target.precision else target.precision
    shown = tuple(tries) if target.precision != "fp32" else ()
    return replace(made, judged=made.judged.noted(format=target.format, asked=asked, tries=shown))


def _nearest(
    case: VerificationContext, job: Job, target: Target, kind: Format, repair: Repair, tries: list[Attempt]
) -> BuildAttempt:
    """The first step that passes, else the last. Every try is added to `tries`."""
    made: BuildAttempt | None = None
    lacking: set[Precision] = set()
    for number, step in enumerate(_steps(kind, job, target, repair), 1):
        if step.precision in lacking:
            continue
        job.report(f"try {number}: {target.format} {step.precision}, {step.how}")
        if made is not None:
            made.judged.runner.close()
        began = time.monotonic()
        try:
            made, tried = _tried(case, job, kind, step)
        except ArtifactError as error:
            if not repair.allowed or step.precision == "fp32" or is_fatal(step, target, error):
                raise
            if isinstance(error, CannotBuildError):
                lacking.add(step.precision)
            tries.append(_unusable(step, error, began))
            continue
        tries.append(tried)
        if made.verdict.passed or not repair.allowed:
            break
    if made is None:
        raise _no_way(target, repair, tries)
    return made


def _no_way(target: Target, repair: Repair, tries: Sequence[Attempt]) -> TritonkitError:
    """The error where no step gives a graph that loads."""
    if repair.strict and tries:
        return CheckFailedError(
            f"{target}: no try of it passed: {tries[-1].problems[0].message}; nothing was published"
        )
    return ArtifactError(f"{target}: there is no way to make it")


def _steps(kind: Format, job: Job, target: Target, repair: Repair) -> Iterator[Step]:
    """The steps to take; those of the precision alone where no other will do."""
    steps = _all_steps(kind, job, target, repair)
    return takewhile(lambda step: step.precision == target.precision, steps) if repair.strict else steps


def _all_steps(kind: Format, job: Job, target: Target, repair: Repair) -> Iterator[Step]:
    if target.precision in ("fp32", job.source.precision) or (kind.casts and job.source.precision != "fp32"):
        return iter([_as_it_is(job, target)])
    if not kind.casts and target.precision != "int8":
        return iter([_as_it_is(job, target), _as_it_is(job, Target(format=target.format))])
    ladder = Ladder(job.graph, repair.images, repair.keep, CONVERTERS[repair.converter])
    casts: tuple[Reduced, ...] = ("fp16", "bf16") if kind.takes_bf16 else ("fp16",)
    return ladder.steps(target.precision, kind.dialect, casts if kind.casts else ())


def _as_it_is(job: Job, target: Target) -> Step:
    """The source's graph: the precision, if not the graph's own, is the runtime's to bring."""

    def write(path: Path) -> Sequence[str]:
        path.write_bytes(job.graph.read_bytes())
        return ()

    return Step(target.precision, "the whole model", write)


def _tried(case: VerificationContext, job: Job, kind: Format, step: Step) -> tuple[BuildAttempt, Attempt]:
    """The step's graph, judged by what rounds as hardware does, then the artifact, where it runs here."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(dir=job.graph.parent))
    graph = folder / job.graph.name
    kept = tuple(step.write(graph))
    own = replace(job, graph=graph, precision=step.precision)
    judged = _simulated(case, own) if kind.casts and step.precision in ("fp16", "bf16") else None
    if judged is None or judged.verdict.passed:
        judged = _written(case, own, kind) or judged
    if judged is None:
        raise ArtifactError(f"{kind.name} {step.precision}: nothing on this machine can run it, so nothing proves it")
    tried = _told(step, judged.verdict, kept, began)
    return BuildAttempt(job.folder / kind.artifact, own, judged), tried


def _simulated(case: VerificationContext, job: Job) -> VerifiedArtifact:
    stand_in = CachingRunner(simulated_runner(job.graph, case.spec, job.graph.parent))
    verdict = case.verdict(stand_in, job.precision, job.graph, causes=False)
    judged = VerifiedArtifact(verdict, stand_in, Path(stand_in.origin))
    return judged.noted(proven_by=f"a simulation that rounds to {job.precision} where hardware would")


def _written(case: VerificationContext, job: Job, kind: Format) -> VerifiedArtifact | None:
    """The verdict of the artifact itself, None where it does not run on this machine."""
    artifact = kind.write(job)
    opened = kind.candidate(artifact, job)
    if opened is None:
        return None
    runner = CachingRunner(opened)
    try:
        verdict = case.verdict(runner, job.precision, job.graph, causes=job.precision == "fp32")
    except BaseException:
        runner.close()
        raise
    return VerifiedArtifact(verdict, runner, _answering(opened, artifact, job)).noted(proven_by=kind.proven_by(job))


def _answering(opened: Runner, artifact: Path, job: Job) -> Path:
    """The file whose answers a candidate gives, or the nearest to it that `train test --from` opens."""
    asked = Path(opened.origin)
    if asked.is_file():  # also an engine beside the artifact, which may round where its graph does not here
        return asked
    if artifact.suffix in _SELF_CONTAINED:  # one of several that were asked
        return artifact
    rounded = simulation_of(job.graph, job.graph.parent)
    return rounded if rounded.is_file() else job.graph


def _broken_in_fp32(case: VerificationContext, job: Job, tries: list[Attempt]) -> VerifiedArtifact | None:
    """The verdict of the fp32 graph, where it fails: then precision is not what is wrong.

    A subtle fault of the graph would be within what a reduced precision may lose, so it is looked for before.
    """
    began = time.monotonic()
    job.report("comparing the fp32 graph with the checkpoint")
    runner = OnnxRuntimeRunner(job.graph, spec=case.spec, spinning=False)
    # The largest batch is asked of the reduced graph, which has the same shapes.
    small = replace(case, max_batch=min(MIDDLE_BATCH, case.max_batch))
    verdict = small.verdict(runner, "fp32", job.graph)
    tries.append(_told(Step("fp32", "the graph, before it is reduced", _nothing), verdict, (), began))
    return None if verdict.passed else VerifiedArtifact(verdict, runner, job.graph)


def _nothing(path: Path) -> Sequence[str]:
    return ()


def is_fatal(step: Step, target: Target, error: ArtifactError) -> bool:
    """Whether what was asked for cannot be built.

    A precision that was not, such as bf16 in place of an fp16 that fails, is only left out.
    """
    return isinstance(error, CannotBuildError) and step.precision == target.precision


def _unusable(step: Step, error: ArtifactError, began: float) -> Attempt:
    """A try whose graph could not even be loaded."""
    problem, seconds = Problem(code="run", message=first_line(error)), round(time.monotonic() - began, 2)
    return Attempt(
        precision=step.precision,
        how=step.how,
        passed=False,
        nodes=step.nodes,
        seconds=seconds,
        problems=(problem,),
        miss=Miss(words=problem.message),
    )


def _forced(made: BuildAttempt, kind: Format, repair: Repair) -> BuildAttempt:
    """The same, with the artifact written where it is wanted although its graph failed."""
    if repair.force and not made.artifact.exists():
        kind.write(made.job)
    return made


def _told(step: Step, verdict: Verdict, kept: tuple[str, ...], began: float) -> Attempt:
    return Attempt(
        precision=step.precision,
        how=step.how,
        passed=verdict.passed,
        kept=kept,
        nodes=step.nodes,
        max_abs=max((comparison.max_abs for comparison in verdict.of_artifact), default=None),
        relative=verdict.relative,
        seconds=round(time.monotonic() - began, 2),
        problems=verdict.problems,
        miss=verdict.miss,
    )
