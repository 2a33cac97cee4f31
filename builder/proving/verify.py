"""`builder verify`: the verdict alone, for any artifact there is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from builder.export import Evidence, golden_for
from builder.precision.simulate import simulated_runner
from builder.proving.carried import problems_of_spec
from builder.proving.labelled import labelled_set
from builder.proving.page import write_page
from builder.proving.pictured import answers_of
from builder.proving.plan_records import is_recorded, recorded_problems, stale_reason, with_stale_reason
from builder.proving.proof import Remembering, case_of
from builder.proving.verdict import VERDICT_FILE, Problem, Verdict
from builder.sources.base import Source
from builder.sources.onnx_held import onnx_precision, onnx_rounding
from builder.targets import Precision
from model.compatibility import PLANS
from model.errors import ArtifactError, RefusedError
from model.runners import open_artifact
from model.runners.base import Runner
from model.runners.onnxruntime import OnnxRuntimeRunner


def verified(artifact: Path, source: Source, max_batch: int, evidence: Evidence, page: Path | None = None) -> Verdict:
    """Judge an artifact against a source, by the limits of the precision it has.

    Raises ArtifactError when it cannot be opened here.
    """
    golden = golden_for(source.spec, source.golden, evidence.images)
    case = case_of(source, golden, max_batch, evidence.limits)
    precision = precision_of(artifact)
    recorded = recorded_problems(artifact, precision) if artifact.suffix in PLANS else []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Remembering(_opened(artifact, source, Path(scratch), recorded)) as runner,
    ):
        if artifact.suffix == ".onnx":
            verdict = case.verdict(runner, precision, artifact)
        else:
            verdict = case.verdict_of_answers(runner, precision)
            problems = (*recorded, *problems_of_spec(runner.spec, source.spec), *verdict.problems)
            verdict = verdict.model_copy(update={"problems": problems, "passed": not problems})
            verdict = with_stale_reason(verdict, artifact, source) if artifact.suffix in PLANS else verdict
        if evidence.data is not None:
            with labelled_set(source, evidence.data, evidence.masks) as pictures:
                verdict = pictures.weighed(verdict, Path(runner.origin))
        if page is not None:
            write_page(page, source.spec.name, verdict, answers_of(case.reference, runner, golden, max_batch))
    return verdict


def precision_of(artifact: Path) -> Precision:
    """A graph's own; of another artifact what the verdict beside it says, fp32 without one. Raises ArtifactError.

    Of a plan too, where the record of its build is of this very file: its layers are compared with it then.
    """
    if artifact.suffix == ".onnx":
        return onnx_precision(artifact)
    if artifact.suffix in PLANS and not is_recorded(artifact):
        return "fp32"
    try:
        return Verdict.model_validate_json(artifact.with_name(VERDICT_FILE).read_bytes()).precision
    except (OSError, ValidationError):
        return "fp32"


def _opened(artifact: Path, source: Source, scratch: Path, recorded: Sequence[Problem] = ()) -> Runner:
    """recorded: what speaks against a plan already; then the answer is no, also where it cannot be run."""
    if artifact.suffix in PLANS:
        return _opened_plan(artifact, source, recorded)
    if artifact.suffix != ".onnx":
        return open_artifact(artifact)
    rounding = onnx_rounding(artifact)  # whatever its precision: a graph in int8 may be in fp16 where it is not
    runner = OnnxRuntimeRunner(artifact, spec=source.spec) if rounding != "bf16" else None
    if runner is not None and (rounding is None or runner.on_gpu):
        return runner
    return simulated_runner(artifact, source.spec, scratch)


def _opened_plan(plan: Path, source: Source, recorded: Sequence[Problem]) -> Runner:
    try:
        return open_artifact(plan)
    except ArtifactError as error:
        stale = [reason] if (reason := stale_reason(plan, source)) is not None else []
        reasons = "\n".join(f"  {message}" for message in (*stale, *(problem.message for problem in recorded)))
        if recorded:
            raise RefusedError(f"{plan}: FAILED before it was asked, by its records:\n{reasons}") from error
        raise ArtifactError(f"{error}\n{reasons}" if stale else str(error)) from error
