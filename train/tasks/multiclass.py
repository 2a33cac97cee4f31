"""Multiclass: cross-entropy on class numbers; accuracy over pictures, and F1 averaged over classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
)

from model.preprocess import Preprocess
from model.runners.base import Outputs
from model.spec import TaskSpec
from model.tasks.base import Targets
from train.losses import MULTICLASS, balanced_weights, weighted_sum
from train.samples import LABEL, Row, Truth
from train.tasks.base import Batched, TrainingTask
from train.tasks.by_class import ByClass, MeanByClass, of_numbers
from train.tasks.confusion import Confusion, crossed
from train.tasks.measures import Measures


class MulticlassTraining(TrainingTask):
    """One label a picture."""

    name = "multiclass"
    monitor = "accuracy"
    column = LABEL
    usual_loss = "cross_entropy"

    def truth(self, row: Row) -> Truth:
        return self._cell(row)

    @property
    def label_columns(self) -> Sequence[str]:
        return (self.truth_column,)

    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
        return {self.truth_column: truth}

    def classes(self, truth: Truth) -> Sequence[str]:
        return (truth,)

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Always the most common class; and for F1 as well any class at random."""
        counts = Counter(truths)
        share = max(counts.values()) / len(truths)
        return {"": {"accuracy": share, "macro_f1": 1 / len(counts)}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        return question.labels.index(truth)

    def golden_targets(self, targets: Batched) -> Targets:
        return {self.output or "probabilities": targets.numpy()}

    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            return balanced_weights(Counter(truths), question.labels)

        return weighted_sum(self.config.loss, self.usual_loss, MULTICLASS, question, balanced)

    def metrics(self, question: TaskSpec, detailed: bool) -> Measures:
        count, labels = len(question.labels), list(question.labels)
        f1, classes = partial(MulticlassF1Score, count, average="none"), (count, of_numbers(count))
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "macro_f1": MeanByClass(f1(), *classes),
        }
        if detailed:
            metrics["auroc"] = MeanByClass(MulticlassAUROC(count, average="none"), *classes, needs_others=True)
            metrics["map"] = MeanByClass(MulticlassAveragePrecision(count, average="none"), *classes)
            metrics["f1"] = ClasswiseWrapper(ByClass(f1(), *classes), labels, prefix="f1/")
        return Measures(metrics, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: Batched) -> None:
        metric.update(outputs[self.output or "probabilities"], targets)

    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        probabilities, truth = self._answers(outputs, question), self._answers(targets, question)
        wrong = probabilities.argmax(axis=1) != truth
        doubt = 1 - np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
        return np.where(wrong, doubt, 0.0).astype(np.float64)

    def confusion(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> dict[str, Confusion]:
        chosen = self._answers(outputs, question).argmax(axis=1)
        return crossed(self._answers(targets, question), chosen, question.labels)
