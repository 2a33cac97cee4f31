"""Measures the quality of a model on labelled images: of a checkpoint, an artifact or a server."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.utils.data import default_collate

from tritonkit.comparison import Limits, is_text
from tritonkit.errors import DataError, Problem
from tritonkit.evaluation.labelled_images import known_labels, labelled_part, read_labelled
from tritonkit.evaluation.samples.sample import Sample
from tritonkit.evaluation.tasks import EvaluationTask, evaluation_task_of
from tritonkit.evaluation.tasks.embedding import class_id
from tritonkit.images.preprocess import Geometry, ImageArray, ImageError, Preprocess, load_file
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.runtimes.base import Runner
from tritonkit.spec import Frozen, ModelSpec, Outputs
from tritonkit.tasks import task_of

BATCH_SIZE = 64
MetricValues = dict[str, float | None]
"""Metrics by name; None for a metric that cannot be measured on these images."""
_ALLOWED_CHANGES = 3
"""Images of one class that may change beyond the limits: a model has many classes, and some are small."""
_ROUNDING = 2e-6
"""Metrics are rounded to six digits."""


class Evaluation(Frozen):
    """The metrics of one model on one set of images."""

    measured: str
    """The file or server that was measured."""
    data: Path | str
    """A path, or an address without its secrets."""
    part: str
    """test, or val if the data has no test part; train for data without parts."""
    images: int
    """Number of measured images, without the gallery."""
    classes: dict[str, int] = {}
    """Number of images of each label; `HEAD=LABEL` for a model with several heads."""
    metrics: dict[str, float | None]
    """None for a metric that cannot be measured on these images."""
    lower_is_better: frozenset[str] = Field(default=frozenset(), exclude=True)
    """The metrics that measure an error."""

    def measured_metrics(self) -> dict[str, float]:
        """The metrics that can be measured on these images."""
        return {name: value for name, value in self.metrics.items() if value is not None}


@dataclass(frozen=True)
class AnsweredBatch:
    """A batch of samples with a model's outputs."""

    samples: Sequence[Sample]
    images: ImageArray
    outputs: Outputs
    targets: Any
    """Collated targets, as the task's metrics take them."""


@dataclass(frozen=True)
class LabelledImages:
    """The labelled images of a data set, for one model: the same for each runner of it."""

    data: Path | str
    part: str
    spec: ModelSpec
    task: EvaluationTask
    samples: Sequence[Sample]

    @classmethod
    def read(cls, data: Path | str, spec: ModelSpec, masks: Path | str | None = None) -> LabelledImages:
        """Read and check the images. spec: of the model, with its lineage, which names the columns of the truth.

        Raises DataError that lists all problems of the data.
        """
        task = evaluation_task_of(spec)
        path, mask_path = local_path(data), None if masks is None else local_path(masks)
        samples = read_labelled(path, spec, task, mask_path)
        return cls(
            public_name(data) if isinstance(data, str) else data, labelled_part(path, mask_path), spec, task, samples
        )

    def evaluate(self, runner: Runner, on_batch: Callable[[AnsweredBatch], None] | None = None) -> Evaluation:
        """Measure a runner; call `on_batch` with each batch. Raises DataError, and AnswerError for values like NaN."""
        queries = [sample for sample in self.samples if not sample.gallery]
        counts = Counter(label for sample in queries for label in self.task.classes(sample.truth))
        known = set(known_labels(self.spec))
        metrics, errors = measure(runner, self.samples, self.task, on_batch)
        return Evaluation(
            measured=runner.origin,
            data=self.data,
            part=self.part,
            images=len(queries),
            classes={label: count for label, count in counts.items() if label in known},
            metrics=metrics,
            lower_is_better=errors,
        )


def measure(
    runner: Runner,
    samples: Sequence[Sample],
    task: EvaluationTask,
    on_batch: Callable[[AnsweredBatch], None] | None = None,
) -> tuple[MetricValues, frozenset[str]]:
    """Compute all metrics of the model's task over samples; call `on_batch` with each batch.

    Returns the metrics, and the names of those that measure an error. Raises DataError.
    """
    measures = task.metrics(runner.spec, detailed=True)
    for batch in answer_batches(runner, samples, task):
        outputs = {name: _tensor(array) for name, array in batch.outputs.items()}
        measures.update(outputs, batch.targets)
        if on_batch is not None:
            on_batch(batch)
    values = {name: float(value) for name, value in measures.compute().items()}
    rounded = {name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()}
    return rounded, frozenset(measures.lower_is_better())


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an output as a tensor; text becomes the numbers of `class_id`."""
    if is_text(array):
        numbers = {text: class_id(text) for text in np.unique(array).tolist()}
        return torch.tensor([numbers[text] for text in array.ravel().tolist()]).reshape(array.shape)
    # Arrays from a server may be read-only, and torch warns about that.
    return torch.from_numpy(np.require(array, requirements="W"))


def answer_batches(runner: Runner, samples: Sequence[Sample], task: EvaluationTask) -> Iterator[AnsweredBatch]:
    """Yield the samples in batches with the outputs of a runner. Raises DataError, AnswerError for values like NaN."""
    spec = runner.spec
    checker = task_of(spec)
    size = min(BATCH_SIZE, runner.max_batch or BATCH_SIZE)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            images = np.stack(list(pool.map(lambda sample: load_sample(sample, spec.preprocess)[0], batch)))
            targets = default_collate([task.target(s.truth, s.gallery, spec.preprocess, spec) for s in batch])
            infer = partial(_infer_in_slices, runner, size)
            outputs, targets = task.answered(infer, torch.from_numpy(images), targets, start)
            checker.check_values(outputs)
            yield AnsweredBatch(batch, images, outputs, targets)


def _infer_in_slices(runner: Runner, size: int, images: torch.Tensor) -> Outputs:
    parts = [runner.infer(images[start : start + size].numpy()) for start in range(0, len(images), size)]
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load_sample(sample: Sample, preprocess: Preprocess) -> tuple[ImageArray, Geometry]:
    """Load and preprocess a sample's image, uint8 [H, W, 3], with the geometry of its fitting. Raises DataError."""
    try:
        return load_file(sample.path, preprocess)
    except ImageError as error:
        raise DataError(f"{sample.path}: the image cannot be read: {error}", code="data.image_unreadable") from error


def quality_problems(before: Evaluation, after: Evaluation, limits: Limits) -> list[Problem]:
    """The metrics that became worse by more than the limit plus a tolerance of one image.

    For a metric of one class the tolerance is the share of decisions that may change, plus a few images. An error above
    1 may rise by that share of itself. Losses, which only tasks of plug-ins have, are not compared.
    """
    problems = []
    for name, value in before.measured_metrics().items():
        metric = name.partition("/")[0].rpartition(".")[2]
        if metric == "loss" or metric.endswith("_loss"):
            continue
        is_error = name in before.lower_is_better
        share = limits.quality + _tolerance(name, before.images, before.classes, limits)
        allowed = share * (max(1, value) if is_error else 1) + _ROUNDING
        # A metric that cannot be measured any more is lost.
        measured = after.metrics.get(name)
        if measured is None or (measured - value if is_error else value - measured) > allowed:
            found = "nan" if measured is None else f"{measured:.4f}"
            verb = "rises" if is_error else "falls"
            message = f"{name} {verb} from {value:.4f} to {found} on {after.images} labelled images"
            problems.append(Problem("verdict.quality", f"{message}; the allowed loss is {limits.quality:g}"))
    return problems


def _tolerance(name: str, images: int, classes: Mapping[str, int], limits: Limits) -> float:
    """How far a metric may fall beyond the limit by chance."""
    metric, slash, label = name.partition("/")
    head = metric.rpartition(".")[0]
    count = classes.get(f"{head}={label}" if head else label) if slash else None
    if count is None:  # the metric counts all images, or pixels
        return 1 / images
    return 1 - limits.decisions + _ALLOWED_CHANGES / max(count, 1)
