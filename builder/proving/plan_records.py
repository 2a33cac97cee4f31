"""What stands beside a plan or an engine, asked before the plan is: the records of its build and of its publication."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from builder.proving.verdict import Verdict
from builder.sources.base import Source
from builder.targets import Precision
from builder.tensorrt.precision import precision_problems, record_problems
from model.errors import Problem
from model.files import sha256_of
from model.manifest import MANIFEST_FILE, Manifest, record_in

_GRAPH = "model.onnx"


def recorded_problems(plan: Path, claimed: Precision) -> list[Problem]:
    """What the record of its build says against a plan of the claimed precision; nothing without a record.

    Its graph is asked too where that lies beside it, as with engines of TensorRT for RTX. Raises ArtifactError for a
    broken record.
    """
    record, graph = record_in(plan.parent), plan.with_name(_GRAPH)
    if record is None or not plan.is_file():
        return []
    if graph.is_file():
        problems = precision_problems(plan, graph, claimed, record)
    else:
        problems = record_problems(plan, claimed, record)
    # What is told of another plan, or of another graph's, says nothing more of this one.
    return [problem for problem in problems if problem.code == "plan"] or problems


def is_recorded(plan: Path) -> bool:
    """Whether the record beside a plan is of this very file, so that what else is told of it can be believed."""
    record = record_in(plan.parent)
    return record is not None and plan.is_file() and record.sha256 == sha256_of(plan)


def stale_reason(plan: Path, source: Source) -> str | None:
    """Why a plan may answer otherwise than its source: by its manifest it was made from another file.

    A hint and no problem: the same weights may lie in a checkpoint and in the ONNX file that was made from it.
    """
    try:
        manifest = Manifest.model_validate_json(plan.with_name(MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    if plan.name not in manifest.files or manifest.source_sha256 == sha256_of(source.path):
        return None
    return f"stale plan: {plan.name} was made from another file than {source.path}: {manifest.source}"


def with_stale_reason(verdict: Verdict, plan: Path, source: Source) -> Verdict:
    """A verdict that failed, with what may be the reason before its problems."""
    if verdict.passed or (reason := stale_reason(plan, source)) is None:
        return verdict
    return verdict.model_copy(update={"problems": (Problem(code="plan", message=reason), *verdict.problems)})
