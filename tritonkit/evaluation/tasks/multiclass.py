"""Multiclass: accuracy over images, and F1 averaged over classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
)

from tritonkit.evaluation.samples.sample import Truth
from tritonkit.evaluation.tasks.base import BatchTargets, LabelEvaluation
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix, confusion_matrix
from tritonkit.evaluation.tasks.metrics import Measures, PerClassMean, PerClassMetric, count_class_numbers
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks.base import Targets


class MulticlassEvaluation(LabelEvaluation):
    """A classifier with one label per image."""

    name = "multiclass"
    monitor = "accuracy"

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Accuracy of the most common class; F1 of a random class."""
        counts = Counter(truths)
        share = max(counts.values()) / len(truths)
        return {"": {"accuracy": share, "macro_f1": 1 / len(counts)}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return task_spec.labels.index(truth)

    def golden_targets(self, targets: BatchTargets) -> Targets:
        return {self.output or "probabilities": targets.numpy()}

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures:
        count, labels = len(task_spec.labels), list(task_spec.labels)
        f1, classes = partial(MulticlassF1Score, count, average="none"), (count, count_class_numbers(count))
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "macro_f1": PerClassMean(f1(), *classes),
        }
        if detailed:
            metrics["auroc"] = PerClassMean(MulticlassAUROC(count, average="none"), *classes, needs_others=True)
            metrics["map"] = PerClassMean(MulticlassAveragePrecision(count, average="none"), *classes)
            metrics["f1"] = ClasswiseWrapper(PerClassMetric(f1(), *classes), labels, prefix="f1/")
        return Measures(metrics, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: BatchTargets) -> None:
        metric.update(outputs[self.output or "probabilities"], targets)

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        probabilities, truth = self._answers(outputs, task_spec), self._answers(targets, task_spec)
        wrong = probabilities.argmax(axis=1) != truth
        missing_probability = 1 - np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
        return np.where(wrong, missing_probability, 0.0).astype(np.float64)

    def confusion(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> dict[str, ConfusionMatrix]:
        predicted = self._answers(outputs, task_spec).argmax(axis=1)
        return confusion_matrix(self._answers(targets, task_spec), predicted, task_spec.labels)
