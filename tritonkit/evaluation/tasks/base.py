"""The base class of tasks on labelled data: how a task reads ground truth, and its metrics."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tritonkit.errors import Problem
from tritonkit.evaluation.config import TaskConfig
from tritonkit.evaluation.samples.sample import LABEL, Row, RowError, Sample, Truth, listed
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.evaluation.tasks.metrics import HeadMeasures, Measures
from tritonkit.images.preprocess import Geometry, Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.base import Targets

BatchTargets = Any
"""The targets of a batch: a tensor [N, ...], or tensors by name."""
Infer = Callable[[Tensor], Any]
"""A network or a runner: from uint8 images [N, H, W, 3] to logits or outputs."""


class EvaluationTask(ABC):
    """The labelled data and the metrics of the `tritonkit.tasks.base.Task` with the same name, for one head."""

    name: ClassVar[str]
    monitor: ClassVar[str]
    """The metric that selects the best epoch; higher is better."""
    column: ClassVar[str]
    """The default column of the ground truth."""
    split_by: ClassVar[str] = "picture"
    dense: ClassVar[bool] = False
    """Whether the model predicts each pixel, which needs a segmentation network."""
    open_set: ClassVar[bool] = False
    """Whether images may have labels that the model does not have, which it should call unknown."""
    compares_samples: bool = False
    """Whether answers can only be scored against each other, so that all must be scored at once."""

    def __init__(self, config: TaskConfig, output: str | None = None, label_names: Sequence[str] | None = None) -> None:
        """output: the head's name, if the model has several. label_names: labels from the configuration."""
        self.config, self.output, self.label_names = config, output, label_names
        self.truth_column = config.column or output or self.column

    # Ground truth.

    @abstractmethod
    def truth(self, row: Row) -> Truth:
        """Read the ground truth from a row. Raises ValueError with a readable message."""

    @abstractmethod
    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        """Write a truth as columns of a CSV, without the image path."""

    @abstractmethod
    def classes(self, truth: Truth) -> Sequence[str]:
        """Return the labels of an image, for counting and splitting: `HEAD=LABEL` with heads, none for masks."""

    @property
    def label_columns(self) -> Sequence[str]:
        """The columns that contain one label each."""
        return ()

    def table_problems(self, columns: Sequence[str], rows: Sequence[Row]) -> list[Problem]:
        """Report problems of a table's columns. If there are any, its rows are not checked."""
        return []

    def declared_labels(self, columns: Sequence[str]) -> Sequence[str]:
        """Return classes that are column names; they exist even if no image has them."""
        return ()

    def labels(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of the model, in natural order: 2 before 10."""
        labels = {label for truth in truths for label in self.classes(truth)} | set(declared_labels)
        return tuple(sorted(labels, key=natural_sort_key))

    def task_spec(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> TaskSpec:
        """Create the TaskSpec of a model that is trained on these truths. Raises SpecError."""
        task_spec = TaskSpec(
            task=self.name, labels=self.labels(truths, declared_labels), thresholds=self.config.thresholds
        )
        task_for(task_spec)
        return task_spec

    def stratum(self, truth: Truth, counts: Mapping[str, int]) -> str:
        """Return the stratum of an image for a stratified split: its rarest class."""
        return min(self.classes(truth), key=lambda label: (counts[label], label), default="")

    def fingerprint_bytes(self, truth: Truth) -> bytes:
        """Return the bytes of a truth for the data's fingerprint."""
        return repr(truth).encode()

    def prepare(self, truths: Sequence[Truth]) -> None:  # noqa: B027 - most tasks need nothing
        """Inspect all truths of a data set before they are used, if the meaning of one depends on the others."""

    def truth_problem(self, truth: Truth, size: tuple[int, int], task_spec: TaskSpec) -> Problem | None:
        """Check the truth of an image with this width and height."""
        return None

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        """Report why these parts cannot be used for training; each class needs `minimum` images in train."""
        counts = Counter(label for truth in truths["train"] for label in self.classes(truth))
        small = [f"{label} has {counts[label]}" for label in task_spec.labels if 0 < counts[label] < minimum]
        empty = [label for label in task_spec.labels if not counts[label]]
        problems = listed(
            f"classes too small to split, each needs {minimum} images; add images, or leave the classes out",
            small,
            code="data.class_too_small",
        )
        problems += listed("classes without an image in train", empty, code="data.class_not_in_train")
        for part in ("val", "test"):
            unknown = {label for truth in truths[part] for label in self.classes(truth)} - set(task_spec.labels)
            if unknown:
                names = ", ".join(sorted(unknown, key=natural_sort_key))
                problems.append(
                    Problem(
                        "data.label_not_in_train",
                        f"{part} has labels that train does not have; add them to train, or remove them: {names:.400}",
                    )
                )
        return problems

    def monitor_problem(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        """Say why the monitored metric cannot be measured on these truths of val; None if it can."""
        return None

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Return, by head prefix, the metrics on val of the best guess that ignores the images."""
        return {}

    # Metrics.

    @abstractmethod
    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        """Convert a truth for the loss and the metrics: a number, an array, or a mapping of these."""

    def answered(
        self, infer: Infer, images: Tensor, targets: BatchTargets, first: int = 0, step: int = 1
    ) -> tuple[Any, BatchTargets]:
        """Return what `infer` returns for images [N, H, W, 3], and the collated targets.

        With auxiliary heads `infer` returns values by head and gets more images than N: those that such a head is
        trained and measured on. first, step: the images have the numbers first, first + step, … among all of them.
        """
        return infer(images), targets

    @abstractmethod
    def golden_targets(self, targets: BatchTargets) -> Targets:
        """Convert collated targets to the format of `tritonkit.tasks.base.Task.quality`."""

    @abstractmethod
    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures | HeadMeasures:
        """Create new metrics; detailed: with metrics by class, and metrics that store every answer."""

    @abstractmethod
    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        """Score the error of each of N answers: 0 is correct, 1 is the largest error."""

    def confusion(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> dict[str, ConfusionMatrix]:
        """Count truths against answers, by head, or under an empty name; empty if answers are not classes."""
        return {}

    def describe_answers(
        self, outputs: Outputs, targets: Targets, task_spec: TaskSpec, samples: Sequence[Sample], geometry: Geometry
    ) -> list[str]:
        """Describe the answer to each of N samples in a few words. geometry: of the shown images."""
        task = task_for(task_spec, self.output)
        each_output = [{name: array[i] for name, array in outputs.items()} for i in range(len(samples))]
        names = [sample.path.name for sample in samples]
        return task.captions([task.answer(output, geometry, top=1) for output in each_output], names)

    def describe_truth(self, truth: Truth) -> str:
        """Describe a truth in a few words."""
        return ", ".join(self.classes(truth)) or "none"

    def _cell(self, row: Row) -> str:
        """Return the text of the truth's column. Raises RowError if it has none."""
        value = row.get(self.truth_column)
        if self.truth_column not in row:
            raise RowError(
                f"no column `{self.truth_column}`; the columns are: {', '.join(row)}", code="data.missing_column"
            )
        if value is None or value == "":
            raise RowError(f"there is no value for {self.truth_column}", code="data.blank_cell")
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
        raise RowError(f"expected text in column {self.truth_column}, got {value!r:.80}", code="data.not_text")

    def _answers(self, outputs: Mapping[str, Any], task_spec: TaskSpec) -> Any:
        """Return this task's first output."""
        return outputs[task_for(task_spec, self.output).output]


class LabelEvaluation(EvaluationTask):
    """Base of the tasks whose truth is one label an image."""

    column = LABEL

    def truth(self, row: Row) -> Truth:
        return self._cell(row)

    @property
    def label_columns(self) -> Sequence[str]:
        return (self.truth_column,)

    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        return {self.truth_column: truth}

    def classes(self, truth: Truth) -> Sequence[str]:
        return (truth,)


def natural_sort_key(label: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts 2 before 10, and never compares a number with a word."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts]
