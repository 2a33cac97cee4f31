"""Build and verify the candidates, each as a model of one repository that a server can load."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from builder.build import Verified
from builder.optimization.request import OptimizeRequest
from builder.pipeline import build_version
from builder.plan import ExportPlan, Preparation, builder_of
from builder.repository.shared_files import SharedFiles
from builder.verification.report import quality_tables
from tritonkit.errors import CheckFailedError, TritonkitError, first_line
from tritonkit.repository.optimization import Candidate
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import Target, model_files
from tritonkit.triton.backends import ModelConfig


@dataclass(frozen=True)
class BuiltCandidate:
    """A candidate whose verdict passed."""

    plan: ExportPlan
    verified: Verified

    @property
    def folder(self) -> Path:
        """Its version folder."""
        return self.verified.job.folder


def build_candidate(
    request: OptimizeRequest, prepared: Preparation, target: Target, repository: Path
) -> tuple[Candidate, BuiltCandidate | None]:
    """Build and verify one candidate as a model in a repository; None where it failed, with the reason in the first.

    The model is named `candidate_name(target)` and has the version number that would be published.
    """
    candidate = Candidate(format=target.format, precision=target.precision)
    model = repository / candidate_name(candidate)
    folder = model / str(prepared.staged.version)
    folder.mkdir(parents=True)
    try:
        export = request.export_request(target)
        plan = prepared.plan(export, builder_of(export, prepared.source), folder)
        verified = build_version(plan)
        config, _ = plan.serving_files(verified.job)
        SharedFiles(plan.context.spec, _measured_config(config, model.name), plan.context.golden.images).write(model)
    except TritonkitError as error:
        shutil.rmtree(model)
        verdict = error.document if isinstance(error, CheckFailedError) else None
        if isinstance(verdict, Verdict) and not verdict.passed:
            reason = verdict.miss.words if verdict.miss is not None else first_line(error)
            return _with_verdict(candidate, verdict, prepared).model_copy(update={"excluded": reason}), None
        return candidate.model_copy(update={"excluded": first_line(error)}), None
    size = sum(path.stat().st_size for path in model_files(folder / plan.builder.format.served.file))
    passed = _with_verdict(candidate, verified.verdict, prepared).model_copy(update={"bytes": size})
    return passed, BuiltCandidate(plan, verified)


def candidate_name(candidate: Candidate) -> str:
    """The name of a candidate's model in the repository of the measurement."""
    return candidate.name.replace(" ", "_")


def _measured_config(config: ModelConfig, name: str) -> ModelConfig:
    """The configuration that is published, under the name of the candidate; only this version, and never cached."""
    measured = deepcopy(config)
    measured.name = name
    measured.ClearField("version_policy")
    measured.ClearField("response_cache")
    return measured


def _with_verdict(candidate: Candidate, verdict: Verdict, prepared: Preparation) -> Candidate:
    """Add the figures of a verdict to a candidate."""
    labelled = prepared.labelled
    lower_is_better = labelled.reference.lower_is_better if labelled is not None else ()
    changes = {
        change.name: change.change
        for table in quality_tables(verdict)
        if labelled is not None and table.measured_on != verdict.images
        for change in table.overall
    }
    losses = [
        change if name in lower_is_better else -change for name, change in changes.items() if not name.endswith("loss")
    ]
    return candidate.model_copy(
        update={
            "verdict": "passed" if verdict.passed else "FAILED",
            "max_abs": max((comparison.max_abs for comparison in verdict.artifact_comparisons), default=None),
            "relative": verdict.relative,
            "quality": changes,
            "quality_loss": max([0.0, *losses]),
        }
    )
