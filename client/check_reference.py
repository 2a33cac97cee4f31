"""The reference for `client check`: golden images, the expected answers, and the limits for differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tritonkit.checkpoint import read_spec
from tritonkit.comparison import FP32_LIMITS, Limits
from tritonkit.errors import CheckpointError, InputError
from tritonkit.golden import GOLDEN_FILE, Golden, golden_of_checkpoint
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import Frozen, ModelSpec

if TYPE_CHECKING:
    from tritonkit.triton.runner import TritonRunner

_EXPORT_INVARIANTS = ("task", "labels", "embedding_size", "input", "preprocess")
"""Fields of a spec that every export keeps from its checkpoint."""


class Reference(NamedTuple):
    """Golden images with expected answers, and the limits for the served answers."""

    golden: Golden
    limits: Limits
    verdict: Path | None
    """The file that the limits were read from. None means the limits of fp32."""


class ReferenceFiles(Frozen):
    """The files of the reference. Of golden, checkpoint and repository, the first that is set is used."""

    golden: Path | None = None
    """An `.npz` file. `verdict.json` and `model.json` of its version may be in the same folder."""
    checkpoint: Path | None = None
    """A checkpoint; its golden sample has the answers that were recorded in training."""
    repository: Path = Path("model_repository")
    verdict: Path | None = None
    """The `verdict.json` with the limits. None uses the verdict of the version, if it is found."""

    def load(self, runner: TritonRunner) -> Reference:
        """Read the reference for a runner of one version.

        Raises InputError if there is none or it belongs to another model, ArtifactError for files that cannot be read.
        """
        folder = self.repository / runner.model / runner.version
        path = self.golden or self.checkpoint or folder / GOLDEN_FILE
        version_folder = folder if self.golden is None else path.parent
        if self.golden is None and self.checkpoint is not None:
            if not path.is_file():
                raise InputError(f"{path}: no such file; expected a checkpoint", code="artifact.not_found")
            golden_sample = golden_of_checkpoint(path)
            if golden_sample is None:
                raise InputError(
                    f"{path}: {GOLDEN_FILE} is missing beside it; copy it from the folder of the run, or set --golden",
                    code="golden.missing",
                )
            spec = _checkpoint_spec(path)
            _check_same_model(runner, path, spec)
            if spec is not None:
                golden_sample = golden_sample.without(set(spec.auxiliary_heads) - runner.spec.heads.keys())
        else:
            golden_sample = Golden.load(path) if path.is_file() else None
        if golden_sample is None or not golden_sample.outputs:
            raise InputError(
                f"{path}: no golden sample with answers for {runner.model} version {runner.version}. Set --repository "
                "to the repository that the server serves, --golden to a golden.npz, or --against to the checkpoint",
                code="golden.missing",
            )
        spec = ModelSpec.read(version_folder)
        if version_folder == path.parent:
            _check_same_model(runner, path, spec)
        # Whether the folder surely belongs to the served version.
        is_served = version_folder == path.parent or (spec is not None and spec.public() == runner.spec.public())
        verdict = self.verdict or version_folder / Verdict.FILE
        if self.verdict is None and not (is_served and verdict.is_file()):
            return Reference(golden_sample, FP32_LIMITS, None)
        try:
            return Reference(golden_sample, Verdict.read_file(verdict).limits, verdict)
        except FileNotFoundError as error:
            raise Verdict.unreadable(verdict, "no such file") from error


def _checkpoint_spec(checkpoint: Path) -> ModelSpec | None:
    """Read the spec of a checkpoint; None for a third-party file, or if the checkpoint itself is missing."""
    if checkpoint.suffix != ".safetensors" or not checkpoint.is_file():
        return None
    try:
        return read_spec(checkpoint)
    except CheckpointError:  # weights alone
        return None


def _check_same_model(runner: TritonRunner, path: Path, spec: ModelSpec | None) -> None:
    """Refuse a reference that is known to belong to another model. Raises InputError."""
    if spec is None:
        return
    if differing := [name for name in _EXPORT_INVARIANTS if getattr(spec, name) != getattr(runner.spec, name)]:
        raise InputError(
            f"{path}: belongs to another model than {runner.origin} version {runner.version}, because "
            f"{', '.join(differing)} differ. Set --repository, --golden or --against to the files of the served model",
            code="golden.other_model",
        )
