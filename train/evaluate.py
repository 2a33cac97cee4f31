"""`train test`: measures a checkpoint, or what was exported from it, on labelled images."""

from __future__ import annotations

from pathlib import Path

from train.reports.mistakes import MistakeCollector
from tritonkit.checkpoint import read_spec
from tritonkit.errors import DataError, InputError
from tritonkit.evaluation.evaluate import Evaluation, LabelledImages
from tritonkit.evaluation.samples.part_names import PARTS
from tritonkit.remotes.addresses import public_name
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec

_SPLIT_FILES = tuple(f"splits/{part}.csv" for part in PARTS)


class CheckpointEvaluation(Evaluation):
    """The metrics of a checkpoint, or of what was exported from it."""

    checkpoint: Path | str
    """A path, or an address without its secrets."""


def evaluate(
    checkpoint: Path | str,
    data: Path | str | None = None,
    masks: Path | str | None = None,
    runner: Runner | None = None,
    mistakes: Path | None = None,
) -> CheckpointEvaluation:
    """Measure a model on labelled images; without `data`, on the test images of its run.

    runner: measured instead of the checkpoint: the same model as another artifact, or served. mistakes: the path of a
    report of the worst mistakes. Raises DataError that lists all problems of the data, InputError if the runner has
    another model, and whatever `open_artifact` raises.
    """
    name = public_name(checkpoint) if isinstance(checkpoint, str) else checkpoint
    checkpoint = local_artifact(checkpoint, *(_SPLIT_FILES if data is None else ()))
    with runner or open_artifact(checkpoint) as active_runner:
        # A served model has no lineage, which contains the column of the truth.
        spec = active_runner.spec if runner is None else _spec_of(checkpoint)
        fields = ("task", "labels", "heads", "thresholds", "preprocess", "outputs")
        if differing := [field for field in fields if getattr(spec, field) != getattr(active_runner.spec, field)]:
            raise InputError(
                f"{active_runner.origin}: is not the checkpoint's model; {', '.join(differing)} differ",
                code="artifact.other_model",
            )
        images = LabelledImages.read(data or _test_split(checkpoint), spec, masks)
        collector = MistakeCollector(images.task, spec)
        evaluation = images.evaluate(active_runner, None if mistakes is None else collector.add)
        if mistakes is not None:
            collector.write(mistakes, f"{active_runner.origin} on {images.data}")
        return CheckpointEvaluation(checkpoint=name, **dict(evaluation))


def _spec_of(checkpoint: Path) -> ModelSpec:
    """Read the spec of a checkpoint, or of an artifact exported from one."""
    if checkpoint.suffix == ".safetensors":
        return read_spec(checkpoint)  # without building the network
    with open_artifact(checkpoint) as opened:
        return opened.spec


def _test_split(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "splits"
    if not any((folder / f"{part}.csv").is_file() for part in PARTS):
        raise DataError(
            f"{checkpoint}: no splits/test.csv next to it; set --data to labelled images", code="data.no_test_split"
        )
    return folder
