"""A model's answers to labelled pictures, and what they amount to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from model.preprocess import ImageArray
from model.runners.base import Outputs, Runner
from model.tasks import task_of
from train.dataset import load_sample
from train.samples import Sample
from train.tasks import TrainingTask

BATCH_SIZE = 64
Figures = dict[str, float | None]
"""Metrics by name; None for one that cannot be measured on these pictures."""


@dataclass(frozen=True)
class Answered:
    """A batch of samples with what a model said of them."""

    samples: Sequence[Sample]
    images: ImageArray
    outputs: Outputs
    targets: Any
    """Collated, as the task's measures take them."""


def measure(
    runner: Runner, samples: Sequence[Sample], task: TrainingTask, watch: Callable[[Answered], None] | None = None
) -> Figures:
    """All metrics of the model's task over samples; `watch` sees each batch too. Raises DataError."""
    measures = task.metrics(runner.spec, detailed=True)
    for batch in answered(runner, samples, task):
        # What comes from a server may be read-only, which torch warns of.
        outputs = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in batch.outputs.items()}
        measures.update(outputs, batch.targets)
        if watch is not None:
            watch(batch)
    figures = {name: float(value) for name, value in measures.compute().items()}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}


def answered(runner: Runner, samples: Sequence[Sample], task: TrainingTask) -> Iterator[Answered]:
    """The model's answers, a batch at a time. Raises DataError, AnswerError for values such as NaN."""
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
            yield Answered(batch, images, outputs, targets)
