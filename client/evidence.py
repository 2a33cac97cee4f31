"""What a served model is held against: images, the answers that are right, and how far others may be from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ValidationError

from model.checkpoint import read_spec
from model.comparison import FP32_LIMITS, Limits
from model.errors import ArtifactError, CheckpointError, InputError, first_line
from model.golden import GOLDEN_FILE, Golden, beside_checkpoint
from model.spec import METADATA_KEY, Frozen, Lineage, ModelSpec

if TYPE_CHECKING:
    from model.runners.triton import TritonRunner

_VERDICT_FILE = "verdict.json"
_OF_ANY_EXPORT = ("task", "labels", "embedding_size", "input", "preprocess")
"""What a served model has from its checkpoint, however it was exported."""


class Measure(NamedTuple):
    """Images with answers, and the limits for others."""

    golden: Golden
    limits: Limits
    verdict: Path | None
    """Where the limits stand; None for those of fp32, where no verdict of the model was found."""


class _Verdict(BaseModel):
    """The part of `verdict.json` that is needed here."""

    limits: Limits


class Evidence(Frozen):
    """Where images, answers and limits come from; of golden, checkpoint and repository the first that is given."""

    golden: Path | None = None
    """An `.npz` file, with `verdict.json` and `model.json` of its version beside it or not."""
    checkpoint: Path | None = None
    """The answers recorded when it was trained."""
    repository: Path = Path("model_repository")
    verdict: Path | None = None
    """The `verdict.json` whose limits hold; None for the one of the version, where that is found."""

    def of(self, runner: TritonRunner) -> Measure:
        """The measure for a runner of one version.

        Raises InputError where there is none, or one of another model; ArtifactError for files that cannot be read.
        """
        folder = self.repository / runner.model / runner.version
        if self.golden is not None:
            path, found, beside = self.golden, _sample(self.golden), self.golden.parent
        elif self.checkpoint is not None:
            path, found, beside = self.checkpoint, beside_checkpoint(self.checkpoint), folder
            _check_same(runner, path, _spec_of(path))
        else:
            path, found, beside = folder / GOLDEN_FILE, _sample(folder / GOLDEN_FILE), folder
        if found is None or not found.outputs:
            raise InputError(
                f"{path}: no golden sample with answers for {runner.model} version {runner.version}. Name the "
                "repository that the server serves with --repository, a golden.npz with --golden, or the checkpoint "
                "with --against"
            )
        spec = _spec_in(beside)
        if beside == path.parent:
            _check_same(runner, path, spec)
        return Measure(found, *self._limits(beside, is_its_own=beside == path.parent or _is(runner, spec)))

    def _limits(self, folder: Path, is_its_own: bool) -> tuple[Limits, Path | None]:
        """The limits, and the file they stand in. Raises ArtifactError.

        is_its_own: whether the folder is known to be that of the version.
        """
        path = self.verdict or folder / _VERDICT_FILE
        if self.verdict is None and not (is_its_own and path.is_file()):
            return FP32_LIMITS, None
        try:
            return _Verdict.model_validate_json(path.read_bytes()).limits, path
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path}: no verdict that can be read ({error}); export the model again") from error


def _sample(path: Path) -> Golden | None:
    return Golden.load(path) if path.is_file() else None


def _spec_of(checkpoint: Path) -> ModelSpec | None:
    """The spec of a checkpoint; None for the file of somebody else, or where only its sample is there."""
    if checkpoint.suffix != ".safetensors" or not checkpoint.is_file():
        return None
    try:
        return read_spec(checkpoint)
    except CheckpointError:  # weights alone
        return None


def _spec_in(folder: Path) -> ModelSpec | None:
    path = folder / METADATA_KEY
    try:
        return ModelSpec.from_json(path.read_text(encoding="utf-8"), origin=str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({first_line(error)}); export the model again") from error


def _is(runner: TritonRunner, spec: ModelSpec | None) -> bool:
    """Whether a spec is all that the server tells of its model's."""
    return spec is not None and spec.model_copy(update={"lineage": Lineage()}) == runner.spec.model_copy(
        update={"lineage": Lineage()}
    )


def _check_same(runner: TritonRunner, path: Path, spec: ModelSpec | None) -> None:
    """Refuse what was recorded of another model, where that is known. Raises InputError."""
    if spec is None:
        return
    if other := [name for name in _OF_ANY_EXPORT if getattr(spec, name) != getattr(runner.spec, name)]:
        raise InputError(
            f"{path}: is of another model than {runner.origin} version {runner.version}: {', '.join(other)} differ. "
            "Name what was exported to this server with --repository, --golden or --against"
        )
