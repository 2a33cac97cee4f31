"""Check a published ONNX file of tritonkit by the files next to it: hashes, verdict and recorded outputs.

A graph is its own reference, so without these checks a damaged or forced graph would always pass.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from builder.sources.base import replay_golden
from tritonkit.comparison import FP32_LIMITS, Limits, compare
from tritonkit.errors import ArtifactError
from tritonkit.golden import GOLDEN_FILE, Golden, golden_of_checkpoint
from tritonkit.repository.manifest import Manifest
from tritonkit.repository.verdict import LIMITS, Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.formats import Precision
from tritonkit.system.files import file_sha256
from tritonkit.tasks import task_of

_AS_TRAINED = FP32_LIMITS.model_copy(update={"max_abs": math.inf, "relative": 100 * FP32_LIMITS.relative})
"""Limits for outputs recorded in training, perhaps on a GPU: decisions must be kept, small errors are allowed."""


def recorded_golden(path: Path, runner: Runner, precision: Precision) -> Golden | None:
    """Read the golden sample next to a tritonkit ONNX file; None without one.

    Raises ArtifactError where the file, its verdict or the sample were changed since publication, where the verdict
    did not pass, and where the file does not reproduce the recorded outputs. The outputs are not compared where all
    hashes match: int8 outputs may differ on another CPU.

    runner: runs the file. precision: the precision of the file.
    """
    manifest = _manifest_of(path)
    verdict = Verdict.read(path.parent) if manifest is not None and Verdict.FILE in manifest.files else None
    if manifest is not None and verdict is not None and not verdict.passed:
        raise ArtifactError(
            f"{path}: its verdict failed, and it was published with --force, so it is no valid reference:\n"
            f"{verdict.summary()}\nExport its source instead: {manifest.source}",
            code="artifact.forced",
            problems=verdict.problems,
        )
    golden = golden_of_checkpoint(path)
    # With its hash, file and sample are unchanged since the verdict.
    has_golden_hash = manifest is not None and GOLDEN_FILE in manifest.files
    if golden is not None and golden.outputs and not has_golden_hash:
        default = _AS_TRAINED if precision == "fp32" else LIMITS[precision]
        _check_recorded_answers(path, runner, golden, precision, verdict.limits if verdict is not None else default)
    return golden


def _manifest_of(path: Path) -> Manifest | None:
    """Read the manifest that lists this file and compare its hashes; None where no manifest lists it."""
    manifest = Manifest.read(path.parent)
    if manifest is None or path.name not in manifest.files:
        return None
    for name in (path.name, Verdict.FILE, GOLDEN_FILE):
        entry, file = manifest.files.get(name), path.with_name(name)
        if entry is not None and (not file.is_file() or file_sha256(file) != entry.sha256):
            reason = "was changed since it was published (its hash differs)" if file.is_file() else "is missing"
            raise ArtifactError(
                f"{file}: {reason}. Export it again from its source: {manifest.source}", code="artifact.changed"
            )
    return manifest


def _check_recorded_answers(path: Path, runner: Runner, golden: Golden, precision: Precision, limits: Limits) -> None:
    """Raise ArtifactError unless the runner reproduces the recorded outputs."""
    now = replay_golden(runner, golden, min(8, len(golden.images)))
    if now is None:
        raise ArtifactError(
            f"{path}: the golden sample next to it belongs to another model; remove it, or replace it",
            code="golden.other_model",
        )
    finite = all(np.isfinite(array).all() for array in (*golden.outputs.values(), *now.values()))
    drift = (
        compare("recorded", task_of(runner.spec), golden.outputs, now, golden.geometry_values, limits)
        if finite
        else None
    )
    if drift is not None and drift.is_within(limits) and drift.decisions_kept >= limits.decisions:
        return
    difference = (
        "NaN or infinity" if drift is None else f"error {drift.max_abs:.1e}, {drift.decisions_kept:.0%} of decisions"
    )
    other_cpu = ", or another kind of CPU recorded them (int8)" if precision == "int8" else ""
    raise ArtifactError(
        f"{path}: does not reproduce the outputs recorded in the golden sample next to it ({difference}): weights or "
        f"sample were changed since then{other_cpu}. Export it again from its source",
        code="golden.outputs_differ",
    )
