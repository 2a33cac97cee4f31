"""`builder verify`: the verdict alone, for any artifact there is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from builder.export import DEFAULT_MAX_BATCH, Evidence, golden_for
from builder.precision.simulate import simulated_runner
from builder.proving.carried import problems_of_spec
from builder.proving.labelled import labelled_set
from builder.proving.page import write_page
from builder.proving.pictured import answers_of
from builder.proving.plan_records import is_recorded, recorded_problems, stale_reason, with_stale_reason
from builder.proving.proof import CachingRunner, case_of
from builder.proving.verdict import VERDICT_FILE, Verdict
from builder.sources.base import Source
from builder.sources.onnx_held import onnx_precision, onnx_rounding
from builder.targets import FormatName, Precision
from model.compatibility import PLANS
from model.errors import ArtifactError, CheckFailedError, Problem
from model.files import sha256_of
from model.manifest import MANIFEST_FILE, Manifest
from model.runners import open_artifact
from model.runners.base import Runner
from model.runners.onnxruntime import OnnxRuntimeRunner
from model.triton_config import CONFIG_FILE, configured_sizes, read_config

_KINDS: dict[str, tuple[FormatName, str]] = {
    ".onnx": ("onnx", "onnxruntime"),
    ".xml": ("openvino", "OpenVINO"),
    ".pt": ("torchscript", "torch"),
    ".plan": ("trt", "TensorRT"),
    ".rtx": ("rtx", "TensorRT for RTX"),
}
"""By suffix, the format of an artifact, and what runs it here."""


def verified(
    artifact: Path, source: Source, max_batch: int | None, evidence: Evidence, page: Path | None = None
) -> Verdict:
    """Judge an artifact against a source, by the limits of the precision it has.

    max_batch: the largest batch to ask for; None is the most that the artifact takes, and 32 where it tells of none.
    Raises ArtifactError when it cannot be opened here.
    """
    golden = golden_for(source.spec, source.golden, evidence.images)
    precision = precision_of(artifact)
    recorded = recorded_problems(artifact, precision) if artifact.suffix in PLANS else []
    with (
        tempfile.TemporaryDirectory() as scratch,
        CachingRunner(_opened(artifact, source, Path(scratch), recorded)) as runner,
    ):
        case = case_of(source, golden, largest_batch(max_batch, runner), evidence.limits, _configured_sizes(artifact))
        if artifact.suffix == ".onnx":
            verdict = case.verdict(runner, precision, artifact)
        else:
            verdict = case.verdict_of_answers(runner, precision)
            problems = (*recorded, *problems_of_spec(runner.spec, source.spec), *verdict.problems)
            verdict = verdict.model_copy(update={"problems": problems, "passed": not problems})
            verdict = with_stale_reason(verdict, artifact, source) if artifact.suffix in PLANS else verdict
        verdict = verdict.model_copy(update=_answering(artifact, runner))
        if evidence.data is not None:
            with labelled_set(source, evidence.data, evidence.masks) as pictures:
                verdict = pictures.with_quality(verdict, Path(runner.origin))
        if page is not None:
            answers = answers_of(case.reference, runner, golden, case.max_batch, case.preferred)
            write_page(page, source.spec.name, verdict, answers)
    return verdict


def largest_batch(asked: int | None, runner: Runner) -> int:
    """As asked, else the most that the artifact takes, else 32."""
    return asked or runner.max_batch or DEFAULT_MAX_BATCH


def _configured_sizes(artifact: Path) -> tuple[int, ...]:
    """The batch sizes that the configuration of a published artifact names; none where it lies elsewhere."""
    model = artifact.resolve().parent.parent
    try:
        return configured_sizes(read_config(model)) if (model / CONFIG_FILE).is_file() else ()
    except ArtifactError:  # `builder check` tells of it
        return ()


def _answering(artifact: Path, runner: Runner) -> dict[str, str]:
    """The verdict's fields for what kind of artifact it is, and what answered for it."""
    if artifact.suffix not in _KINDS:  # a checkpoint, which is no artifact and has no format
        return {"proven_by": "the checkpoint itself, run by torch"}
    kind, library = _KINDS[artifact.suffix]
    if Path(runner.origin) == artifact:
        return {"format": kind, "proven_by": f"the artifact itself, run by {library}"}
    return {"format": kind, "proven_by": f"a simulation that rounds to {onnx_rounding(artifact)} where hardware would"}


def precision_of(artifact: Path) -> Precision:
    """A graph's own; of another artifact what the verdict beside it says, fp32 without one. Raises ArtifactError.

    The verdict counts where it is of this very file: by the record of the build of a plan, whose layers are compared
    with it then, and by the hashes in the manifest of another.
    """
    if artifact.suffix == ".onnx":
        return onnx_precision(artifact)
    if not (is_recorded if artifact.suffix in PLANS else _is_published)(artifact):
        return "fp32"
    try:
        return Verdict.model_validate_json(artifact.with_name(VERDICT_FILE).read_bytes()).precision
    except (OSError, ValidationError):
        return "fp32"


def _is_published(artifact: Path) -> bool:
    """Whether the manifest beside an artifact names it and its verdict as they are."""
    try:
        files = Manifest.model_validate_json(artifact.with_name(MANIFEST_FILE).read_bytes()).files
    except (OSError, ValidationError):
        return False
    paths = (artifact, artifact.with_name(VERDICT_FILE))
    return all(path.name in files and path.is_file() and sha256_of(path) == files[path.name].sha256 for path in paths)


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
            raise CheckFailedError(f"{plan}: FAILED before it was asked, by its records:\n{reasons}") from error
        raise ArtifactError(f"{error}\n{reasons}" if stale else str(error)) from error
