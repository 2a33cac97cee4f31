"""Measures the quality of a model on labelled images, for any artifact that opens as a runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from train.data.splits import labelled_part, read_labelled
from train.evaluation.measure import measure
from train.evaluation.mistakes import MistakeCollector
from train.samples.part_names import PARTS
from train.samples.sample import Sample
from train.tasks import TrainingTask, training_task_of
from tritonkit.checkpoint import read_spec
from tritonkit.errors import DataError, InputError
from tritonkit.runtimes import open_artifact
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Frozen, ModelSpec


class Evaluation(Frozen):
    """The metrics of one model on one set of images."""

    checkpoint: Path
    measured: str
    """The file or server that was measured."""
    data: Path
    part: str
    """test, or val if the data has no test part; train for data without parts."""
    images: int
    """Number of measured images, without the gallery."""
    classes: dict[str, int] = {}
    """Number of images of each label; `HEAD=LABEL` for a model with several heads."""
    metrics: dict[str, float | None]
    """None for a metric that cannot be measured on these images."""


def evaluate(
    checkpoint: Path,
    data: Path | None = None,
    masks: Path | None = None,
    runner: Runner | None = None,
    mistakes: Path | None = None,
) -> Evaluation:
    """Measure a model on labelled images; without `data`, on the test images of its run.

    runner: measured instead of the checkpoint: the same model as another artifact, or served. mistakes: the path of a
    report of the worst mistakes. Raises DataError that lists all problems of the data, InputError if the runner has
    another model, and whatever `open_artifact` raises.
    """
    with runner or open_artifact(checkpoint) as active_runner:
        # A served model has no lineage, which contains the column of the truth.
        spec = active_runner.spec if runner is None else _spec_of(checkpoint)
        _check_same(spec, active_runner)
        task = training_task_of(spec)
        source = data or _test_split(checkpoint)
        samples = read_labelled(source, spec, task, masks)
        collector = MistakeCollector(task, spec)
        metrics = measure(active_runner, samples, task, None if mistakes is None else collector.add)
        if mistakes is not None:
            collector.write(mistakes, f"{active_runner.origin} on {source}")
        return Evaluation(
            checkpoint=checkpoint,
            measured=active_runner.origin,
            data=source,
            part=labelled_part(source, masks),
            images=sum(not sample.gallery for sample in samples),
            classes=_count_labels(samples, task, spec),
            metrics=metrics,
        )


def _spec_of(checkpoint: Path) -> ModelSpec:
    """Read the spec of a checkpoint, or of an artifact exported from one."""
    if checkpoint.suffix == ".safetensors":
        return read_spec(checkpoint)  # without building the network
    with open_artifact(checkpoint) as opened:
        return opened.spec


def _count_labels(samples: Sequence[Sample], task: TrainingTask, spec: ModelSpec) -> dict[str, int]:
    known = {*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)}
    counts = Counter(label for sample in samples if not sample.gallery for label in task.classes(sample.truth))
    return {label: count for label, count in counts.items() if label in known}


def _check_same(expected: ModelSpec, runner: Runner) -> None:
    """Raise InputError if the runner's model is not the checkpoint's."""
    differing = [
        field
        for field in ("task", "labels", "heads", "thresholds", "preprocess", "outputs")
        if getattr(expected, field) != getattr(runner.spec, field)
    ]
    if differing:
        raise InputError(
            f"{runner.origin}: is not the checkpoint's model; {', '.join(differing)} differ",
            code="artifact.other_model",
        )


def _test_split(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "splits"
    if not any((folder / f"{part}.csv").is_file() for part in PARTS):
        raise DataError(
            f"{checkpoint}: no splits/test.csv next to it; set --data to labelled images", code="data.no_test_split"
        )
    return folder
