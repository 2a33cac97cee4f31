"""How good a model is on labelled pictures: any artifact that opens as a runner."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from model.errors import DataError
from model.runners import open_artifact
from model.runners.base import Runner
from model.spec import Frozen
from train.data import read_labelled
from train.dataset import load_sample
from train.samples import Sample
from train.tasks import TRAINING_TASKS

BATCH_SIZE = 64


class Evaluation(Frozen):
    """The figures of one model on one set of pictures."""

    checkpoint: Path
    data: Path
    images: int
    metrics: dict[str, float]


def evaluate(checkpoint: Path, data: Path | None = None) -> Evaluation:
    """Measure a model on labelled pictures; without `data`, on the test pictures its run kept apart.

    Raises DataError listing everything wrong with the data, and what `open_artifact` raises.
    """
    with open_artifact(checkpoint) as runner:
        source = data or _test_split(checkpoint)
        samples = read_labelled(source, runner.spec.labels)
        return Evaluation(checkpoint=checkpoint, data=source, images=len(samples), metrics=measure(runner, samples))


def measure(runner: Runner, samples: Sequence[Sample]) -> dict[str, float]:
    """The metrics of the model's task over samples that it knows the labels of. Raises DataError."""
    spec = runner.spec
    task = TRAINING_TASKS[spec.task]
    metrics = task.metrics(spec.labels)
    targets = torch.from_numpy(task.targets([sample.label for sample in samples], spec.labels))
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            images = np.stack(list(pool.map(lambda sample: load_sample(sample, spec.preprocess), samples[batch])))
            outputs = runner.infer(images)
            answers = [torch.from_numpy(outputs[output.name]) for output in spec.outputs]
            task.update(metrics, answers, targets[batch])
    return {name: round(float(value), 6) for name, value in metrics.compute().items()}


def _test_split(checkpoint: Path) -> Path:
    path = checkpoint.parent / "splits" / "test.csv"
    if not path.is_file():
        raise DataError(f"{checkpoint}: no splits/test.csv beside it; name labelled pictures with --data")
    return path
