"""`builder verify`: compare any artifact with its source, without publishing it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from builder.onnx.precision import onnx_precision, onnx_rounding
from builder.onnx.simulation import simulated_runner
from builder.sources.base import Source
from builder.verification.context import (
    DEFAULT_MAX_BATCH,
    CachingRunner,
    select_golden,
    verification_context,
)
from builder.verification.labelled import LabelledSet
from builder.verification.plan_records import is_recorded, recorded_problems, stale_reason, with_stale_reason
from builder.verification.report import write_page
from builder.verification.report_images import collect_answers
from tritonkit.errors import ArtifactError, CheckFailedError, Problem
from tritonkit.export_options import VerificationOptions
from tritonkit.repository.artifact_files import artifact_sha256
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import ONNX, Precision, format_of, is_plan
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.system.files import file_sha256
from tritonkit.triton.model_config import configured_batch_sizes, read_config

DEFAULT_VERIFICATION = VerificationOptions()


def verify_artifact(
    artifact: Path, source: Source, max_batch: int | None = None, options: VerificationOptions = DEFAULT_VERIFICATION
) -> Verdict:
    """Compare an artifact with a source, by the limits of the artifact's precision.

    max_batch: the largest batch to test; None is the artifact's own maximum, or 32 where it declares none.
    Raises ArtifactError where the artifact cannot be opened here.
    """
    golden = select_golden(source.spec, source.golden, options.images)
    labelled = LabelledSet.read(source, options.data, options.masks)
    precision = precision_of(artifact)
    recorded = recorded_problems(artifact, precision) if is_plan(artifact) else []
    with (
        tempfile.TemporaryDirectory() as scratch,
        CachingRunner(_open_runner(artifact, source, Path(scratch), recorded)) as runner,
    ):
        sizes: tuple[int, ...] = ()
        with suppress(ArtifactError):  # an artifact outside a repository, or a finding of `builder check`
            sizes = configured_batch_sizes(read_config(artifact.resolve().parent.parent))
        context = verification_context(source, golden, largest_batch(max_batch, runner), options.limits, sizes)
        verdict = context.verify(runner, precision, artifact if format_of(artifact) is ONNX else None)
        if is_plan(artifact):
            problems = (*recorded, *verdict.problems)
            verdict = verdict.model_copy(update={"problems": problems, "passed": not problems})
            verdict = with_stale_reason(verdict, artifact, source)
        known = format_of(artifact)
        if known is None:  # a checkpoint has no format
            fields = {"proven_by": "the checkpoint itself, run by torch"}
        elif Path(runner.origin) == artifact:
            fields = {"format": known.name, "proven_by": f"the artifact itself, run by {known.library}"}
        else:
            simulation = f"a simulation that rounds to {onnx_rounding(artifact)} where hardware would"
            fields = {"format": known.name, "proven_by": simulation}
        identity = {"model": source.spec.name, "artifact_sha256": artifact_sha256(_files_of(artifact))}
        verdict = verdict.model_copy(update={**fields, **identity})
        if labelled is not None:
            verdict = labelled.with_quality(verdict, Path(runner.origin))
        if options.report is not None:
            answers = collect_answers(context.reference, runner, golden, context.max_batch, context.preferred)
            write_page(options.report, source.spec.name, verdict, answers)
    return verdict


def _files_of(artifact: Path) -> list[Path]:
    """The artifact, and the file with its weights where it has one."""
    known = format_of(artifact)
    weights = artifact.with_suffix(known.weights_suffix) if known is not None and known.weights_suffix else artifact
    return [artifact, *([weights] if weights != artifact and weights.is_file() else [])]


def largest_batch(requested: int | None, runner: Runner) -> int:
    """The requested batch size, else the artifact's own maximum, else 32."""
    return requested or runner.max_batch or DEFAULT_MAX_BATCH


def precision_of(artifact: Path) -> Precision:
    """Read the precision of an artifact: from an ONNX graph itself, else from the verdict next to it, else fp32.

    The verdict is used only where it belongs to this file: for a plan by the build record, whose layers are then
    checked, for other artifacts by the hashes in the manifest. Raises ArtifactError.
    """
    if format_of(artifact) is ONNX:
        return onnx_precision(artifact)
    if is_plan(artifact):
        belongs = is_recorded(artifact)
    else:
        manifest, paths = Manifest.find(artifact.parent), (artifact, artifact.with_name(Verdict.FILE))
        hashes = {} if manifest is None else {name: entry.sha256 for name, entry in manifest.files.items()}
        belongs = all(path.is_file() and hashes.get(path.name) == file_sha256(path) for path in paths)
    verdict = Verdict.find(artifact.parent) if belongs else None
    return "fp32" if verdict is None else verdict.precision


def _open_runner(artifact: Path, source: Source, scratch: Path, recorded: Sequence[Problem] = ()) -> Runner:
    """Open the artifact as a runner. recorded: problems already found in the records of a plan."""
    if is_plan(artifact):
        try:
            return open_artifact(artifact)
        except ArtifactError as error:
            stale = [reason] if (reason := stale_reason(artifact, source)) is not None else []
            reasons = "\n".join(f"  {message}" for message in (*stale, *(problem.message for problem in recorded)))
            if recorded:
                raise CheckFailedError(
                    f"{artifact}: FAILED by its records, before it was run:\n{reasons}",
                    code="verdict.failed",
                    problems=recorded,
                ) from error
            raise ArtifactError(f"{error}\n{reasons}" if stale else str(error), code=error.code) from error
    if format_of(artifact) is not ONNX:
        return open_artifact(artifact)
    rounding = onnx_rounding(artifact)  # an int8 graph may also compute in fp16
    runner = OnnxRuntimeRunner(artifact, spec=source.spec) if rounding != "bf16" else None
    if runner is not None and (rounding is None or runner.is_on_gpu):
        return runner
    return simulated_runner(artifact, source.spec, scratch)
