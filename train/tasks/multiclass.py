"""Multiclass: cross-entropy on class numbers; accuracy over pictures, and F1 averaged over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from train.tasks.base import TrainingTask


class MulticlassTraining(TrainingTask):
    """One label a picture."""

    name = "multiclass"
    monitor = "accuracy"

    def targets(self, truths: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
        number = {label: index for index, label in enumerate(labels)}
        return np.array([number[truth] for truth in truths], dtype=np.int64)

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    def metrics(self, labels: Sequence[str]) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(len(labels), average="micro"),
                "macro_f1": MulticlassF1Score(len(labels), average="macro"),
            }
        )

    def update(self, metrics: MetricCollection, answers: Sequence[Tensor], targets: Tensor) -> None:
        metrics.update(answers[0], targets)
