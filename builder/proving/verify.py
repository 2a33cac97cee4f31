"""`builder verify`: the verdict alone, for any artifact there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import ValidationError

from builder.export import Evidence, golden_for
from builder.onnx_export import onnx_precision
from builder.precision.simulate import simulated_runner
from builder.proving.carried import problems_of_spec
from builder.proving.labelled import labelled_set
from builder.proving.page import write_page
from builder.proving.pictured import answers_of
from builder.proving.proof import case_of
from builder.proving.verdict import VERDICT_FILE, Verdict
from builder.sources.base import Source
from builder.targets import Precision
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
    with tempfile.TemporaryDirectory() as scratch, _opened(artifact, precision, source, Path(scratch)) as runner:
        if artifact.suffix == ".onnx":
            verdict = case.verdict(runner, precision, artifact)
        else:
            verdict = case.verdict_of_answers(runner, precision)
            told = tuple(problems_of_spec(runner.spec, source.spec))
            verdict = verdict.model_copy(
                update={"problems": (*told, *verdict.problems), "passed": verdict.passed and not told}
            )
        if evidence.data is not None:
            with labelled_set(source, evidence.data, evidence.masks) as pictures:
                verdict = pictures.weighed(verdict, Path(runner.origin))
        if page is not None:
            write_page(page, source.spec.name, verdict, answers_of(case.reference, runner, golden, max_batch))
    return verdict


def precision_of(artifact: Path) -> Precision:
    """A graph's own; of another artifact what the verdict beside it says, fp32 without one. Raises ArtifactError."""
    if artifact.suffix == ".onnx":
        return onnx_precision(artifact)
    try:
        return Verdict.model_validate_json(artifact.with_name(VERDICT_FILE).read_bytes()).precision
    except (OSError, ValidationError):
        return "fp32"


def _opened(artifact: Path, precision: Precision, source: Source, scratch: Path) -> Runner:
    if artifact.suffix != ".onnx":
        return open_artifact(artifact)
    runner = OnnxRuntimeRunner(artifact, spec=source.spec) if precision != "bf16" else None
    if precision in ("fp16", "bf16") and (runner is None or not runner.on_gpu):
        return simulated_runner(artifact, source.spec, scratch)
    return runner or open_artifact(artifact)
