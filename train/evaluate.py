"""How good a model is on labelled pictures: any artifact that opens as a runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from model.checkpoint import read_spec
from model.errors import DataError, InputError
from model.runners import open_artifact
from model.runners.base import Runner
from model.spec import Frozen, ModelSpec
from train.data import labelled_part, read_labelled
from train.measure import measure
from train.mistakes import Mistakes
from train.part_names import PARTS
from train.samples import Sample
from train.tasks import TrainingTask, training_task_of


class Evaluation(Frozen):
    """The figures of one model on one set of pictures."""

    checkpoint: Path
    measured: str
    """The file or server that answered."""
    data: Path
    part: str
    """test, or val where the data has no test part; train for pictures without parts."""
    images: int
    """Those measured; a gallery that they are looked up in is not counted."""
    classes: dict[str, int] = {}
    """How many of them have each of the model's labels; as `HEAD=LABEL` where it has several heads."""
    metrics: dict[str, float | None]
    """None for what cannot be measured on these pictures."""


def evaluate(
    checkpoint: Path,
    data: Path | None = None,
    masks: Path | None = None,
    runner: Runner | None = None,
    mistakes: Path | None = None,
) -> Evaluation:
    """Measure a model on labelled pictures; without `data`, on the test pictures its run kept apart.

    runner: answers in the checkpoint's place: the same model as another artifact, or served. mistakes: a page of the
    worst ones is written there. Raises DataError listing everything wrong with the data, InputError when the runner's
    model is another, and what `open_artifact` raises.
    """
    with runner or open_artifact(checkpoint) as answering:
        # A server does not tell its model's lineage, which says where in a table the truth stands.
        spec = answering.spec if runner is None else _spec_of(checkpoint)
        _check_same(spec, answering)
        task = training_task_of(spec)
        source = data or _test_split(checkpoint)
        samples = read_labelled(source, spec, task, masks)
        found = Mistakes(task, spec)
        metrics = measure(answering, samples, task, None if mistakes is None else found.add)
        if mistakes is not None:
            found.write(mistakes, f"{answering.origin} on {source}")
        return Evaluation(
            checkpoint=checkpoint,
            measured=answering.origin,
            data=source,
            part=labelled_part(source, masks),
            images=sum(not sample.gallery for sample in samples),
            classes=_counted(samples, task, spec),
            metrics=metrics,
        )


def _spec_of(checkpoint: Path) -> ModelSpec:
    """Of a checkpoint, or of anything exported from one."""
    if checkpoint.suffix == ".safetensors":
        return read_spec(checkpoint)  # without building the network
    with open_artifact(checkpoint) as opened:
        return opened.spec


def _counted(samples: Sequence[Sample], task: TrainingTask, spec: ModelSpec) -> dict[str, int]:
    known = {*spec.labels, *(f"{name}={label}" for name, head in spec.heads.items() for label in head.labels)}
    told = Counter(label for sample in samples if not sample.gallery for label in task.classes(sample.truth))
    return {label: count for label, count in told.items() if label in known}


def _check_same(expected: ModelSpec, runner: Runner) -> None:
    """The checkpoint's data must not be put to another model."""
    differing = [
        field
        for field in ("task", "labels", "heads", "thresholds", "preprocess", "outputs")
        if getattr(expected, field) != getattr(runner.spec, field)
    ]
    if differing:
        raise InputError(f"{runner.origin}: is not the checkpoint's model, their {', '.join(differing)} differ")


def _test_split(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "splits"
    if not any((folder / f"{part}.csv").is_file() for part in PARTS):
        raise DataError(f"{checkpoint}: no splits/test.csv beside it; name labelled pictures with --data")
    return folder
