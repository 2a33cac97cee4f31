"""What stands beside an ONNX file of ours that was published: its hashes, its verdict, and the answers it must give.

A graph is its own reference, so without these a damaged or forced one would agree with itself for ever after.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from builder.proving.judge import recalled
from builder.proving.verdict import LIMITS, VERDICT_FILE, Verdict
from builder.targets import Precision
from model.comparison import FP32_LIMITS, Limits, compare
from model.errors import ArtifactError
from model.files import sha256_of
from model.golden import GOLDEN_FILE, Golden, beside_checkpoint
from model.manifest import MANIFEST_FILE, Manifest
from model.runners.base import Runner
from model.tasks import task_of

_AS_TRAINED = FP32_LIMITS.model_copy(update={"max_abs": math.inf, "relative": 100 * FP32_LIMITS.relative})
"""Of answers recorded in training, perhaps on a GPU: decisions count, and small differences do not."""
_BATCH = 8


def recorded_golden(path: Path, runner: Runner, held: Precision) -> Golden | None:
    """The golden sample beside a file of ours, None without one.

    Raises ArtifactError where the file, its verdict or the sample were changed since it was published, where its
    verdict did not pass, and where it does not give the answers that were recorded. Where the hashes of both are
    right it is not asked for them: another CPU may answer otherwise in int8.

    runner: runs the file. held: the precision it came in.
    """
    manifest = _manifest_of(path)
    verdict = _verdict_of(path, manifest)
    golden = beside_checkpoint(path)
    vouched = manifest is not None and GOLDEN_FILE in manifest.files  # that both are as they were when it passed
    if golden is not None and golden.outputs and not vouched:
        usual = _AS_TRAINED if held == "fp32" else LIMITS[held]
        _recall(path, runner, golden, held, verdict.limits if verdict is not None else usual)
    return golden


def _manifest_of(path: Path) -> Manifest | None:
    """The manifest that names this file, after its hashes were compared."""
    try:
        manifest = Manifest.model_validate_json(path.with_name(MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path.with_name(MANIFEST_FILE)}: cannot be read ({error}); export it again") from error
    if path.name not in manifest.files:
        return None
    for name in (path.name, VERDICT_FILE, GOLDEN_FILE):
        entry, file = manifest.files.get(name), path.with_name(name)
        if entry is not None and (not file.is_file() or sha256_of(file) != entry.sha256):
            said = "was changed since it was published (its hash differs)" if file.is_file() else "is missing"
            raise ArtifactError(f"{file}: {said}. Export it again from what it was made of: {manifest.source}")
    return manifest


def _verdict_of(path: Path, manifest: Manifest | None) -> Verdict | None:
    """The verdict on this file. What lies in a folder whose manifest does not name the file is another's."""
    if manifest is None or VERDICT_FILE not in manifest.files:
        return None
    file = path.with_name(VERDICT_FILE)
    try:
        verdict = Verdict.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{file}: cannot be read ({error}); export it again") from error
    if verdict.passed:
        return verdict
    raise ArtifactError(
        f"{path}: its verdict failed, and it was published with --force, so nothing can be proven by it:\n"
        f"{verdict.summary()}\nGive what it was made of: {manifest.source}"
    )


def _recall(path: Path, runner: Runner, golden: Golden, held: Precision, limits: Limits) -> None:
    """Raise ArtifactError unless the recorded images still get the recorded answers."""
    now = recalled(runner, golden, min(_BATCH, len(golden.images)))
    if now is None:
        raise ArtifactError(f"{path}: the golden sample beside it is of another model; take it away, or put its own")
    finite = all(np.isfinite(array).all() for array in (*golden.outputs.values(), *now.values()))
    drift = compare("recorded", task_of(runner.spec), golden.outputs, now, golden.fitted, limits) if finite else None
    if drift is not None and drift.within(limits) and drift.decisions_kept >= limits.decisions:
        return
    far = "NaN or infinity" if drift is None else f"error {drift.max_abs:.1e}, {drift.decisions_kept:.0%} of decisions"
    other_cpu = ", or another kind of CPU recorded them (int8)" if held == "int8" else ""
    raise ArtifactError(
        f"{path}: does not give the answers that are recorded in the golden sample beside it ({far}): weights or "
        f"sample were changed since{other_cpu}. Export it again from what it was made of"
    )
