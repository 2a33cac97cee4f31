"""Runs a model on labelled images and computes its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from train.data.dataset import load_sample
from train.samples.sample import Sample
from train.tasks import TrainingTask
from tritonkit.images.preprocess import ImageArray
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Outputs
from tritonkit.tasks import task_of

BATCH_SIZE = 64
MetricValues = dict[str, float | None]
"""Metrics by name; None for a metric that cannot be measured on these images."""


@dataclass(frozen=True)
class AnsweredBatch:
    """A batch of samples with a model's outputs."""

    samples: Sequence[Sample]
    images: ImageArray
    outputs: Outputs
    targets: Any
    """Collated targets, as the task's metrics take them."""


def measure(
    runner: Runner,
    samples: Sequence[Sample],
    task: TrainingTask,
    on_batch: Callable[[AnsweredBatch], None] | None = None,
) -> MetricValues:
    """Compute all metrics of the model's task over samples; call `on_batch` with each batch. Raises DataError."""
    measures = task.metrics(runner.spec, detailed=True)
    for batch in answer_batches(runner, samples, task):
        # Arrays from a server may be read-only, and torch warns about that.
        outputs = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in batch.outputs.items()}
        measures.update(outputs, batch.targets)
        if on_batch is not None:
            on_batch(batch)
    values = {name: float(value) for name, value in measures.compute().items()}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()}


def answer_batches(runner: Runner, samples: Sequence[Sample], task: TrainingTask) -> Iterator[AnsweredBatch]:
    """Yield the model's answers batch by batch. Raises DataError, and AnswerError for values such as NaN."""
    spec = runner.spec
    checker = task_of(spec)
    size = min(BATCH_SIZE, runner.max_batch or BATCH_SIZE)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            images = np.stack(list(pool.map(lambda sample: load_sample(sample, spec.preprocess)[0], batch)))
            targets = default_collate([task.target(s.truth, s.gallery, spec.preprocess, spec) for s in batch])
            outputs = runner.infer(images)
            checker.check_values(outputs)
            yield AnsweredBatch(batch, images, outputs, targets)
