"""`train test`: measures a checkpoint, or what was exported from it, on labelled images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from train.config.loading import Config
from train.data import SPLIT_FILES, SPLITS
from train.data.remote_images import fetch_missing_images
from train.reports.mistakes import MistakeCollector
from tritonkit.checkpoint import read_spec
from tritonkit.errors import DataError, InputError
from tritonkit.evaluation.evaluate import Evaluation, LabelledImages
from tritonkit.remotes.addresses import public_name
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.spec import ModelSpec


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
    checkpoint = local_artifact(checkpoint, *(SPLIT_FILES if data is None else ()))
    with runner or open_artifact(checkpoint) as active_runner:
        # A served model has no lineage, which contains the column of the truth.
        spec = active_runner.spec if runner is None else _spec_of(checkpoint)
        # An export may have dropped them.
        spec = spec.without_heads(set(spec.auxiliary_heads) - active_runner.spec.heads.keys())
        fields = ("task", "labels", "heads", "thresholds", "preprocess", "outputs")
        if differing := [field for field in fields if getattr(spec, field) != getattr(active_runner.spec, field)]:
            raise InputError(
                f"{active_runner.origin}: is not the checkpoint's model; {', '.join(differing)} differ",
                code="artifact.other_model",
            )
        images = LabelledImages.read(data or images_of_run(checkpoint, spec), spec, masks)
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


def images_of_run(checkpoint: Path, spec: ModelSpec, advice: str = "set --data to labelled images") -> Path:
    """Return the folder of the splits of a checkpoint's run, with its images. Raises DataError if there is none.

    advice: how to name other images.
    """
    folder = checkpoint.parent / SPLITS
    if not any((checkpoint.parent / file).is_file() for file in SPLIT_FILES):
        raise DataError(f"{checkpoint}: no splits/test.csv next to it; {advice}", code="data.no_test_split")
    with suppress(ValidationError):  # no configuration of `train fit`
        fetch_missing_images(folder, Config.model_validate(spec.lineage.config))
    return folder
