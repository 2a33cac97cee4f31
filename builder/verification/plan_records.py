"""Check the build record and the manifest next to a TensorRT plan or engine, before the plan itself is run."""

from __future__ import annotations

from pathlib import Path

from builder.sources.base import Source
from builder.tensorrt.precision import precision_problems, record_problems
from tritonkit.errors import Problem
from tritonkit.repository.build_record import BuildRecord
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.formats import ONNX, Precision
from tritonkit.system.files import file_sha256


def recorded_problems(plan: Path, claimed: Precision) -> list[Problem]:
    """Problems that the build record shows in a plan of the claimed precision; empty without a record.

    The graph is checked too where it lies next to the plan, as for engines of TensorRT for RTX. Raises ArtifactError
    for a broken record.
    """
    record, graph = BuildRecord.read(plan.parent), plan.with_name(ONNX.file)
    if record is None or not plan.is_file():
        return []
    if graph.is_file():
        problems = precision_problems(plan, graph, claimed, record)
    else:
        problems = record_problems(plan, claimed, record)
    # A record of another plan or another graph says nothing more about this plan.
    return [problem for problem in problems if problem.code == "verdict.plan"] or problems


def is_recorded(plan: Path) -> bool:
    """Whether the build record next to a plan is of this file, by its hash."""
    record = BuildRecord.read(plan.parent)
    return record is not None and plan.is_file() and record.sha256 == file_sha256(plan)


def stale_reason(plan: Path, source: Source) -> str | None:
    """Why a plan may differ from its source: its manifest names another source file. None where it does not.

    A hint, not a problem: a checkpoint and the ONNX file made from it hold the same weights.
    """
    manifest = Manifest.find(plan.parent)
    if manifest is None or plan.name not in manifest.files or manifest.source_sha256 == file_sha256(source.path):
        return None
    return f"stale plan: {plan.name} was not made from {source.path} but from {manifest.source}"


def with_stale_reason(verdict: Verdict, plan: Path, source: Source) -> Verdict:
    """Put the stale reason, if there is one, before the problems of a failed verdict."""
    if verdict.passed or (reason := stale_reason(plan, source)) is None:
        return verdict
    return verdict.model_copy(update={"problems": (Problem("verdict.stale_plan", reason), *verdict.problems)})
