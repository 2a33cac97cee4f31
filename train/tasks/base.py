"""What a task brings to training: its targets, loss and metrics. Nothing else here asks which task it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import MetricCollection


class TrainingTask(ABC):
    """The training side of a `model.tasks.Task` of the same name."""

    name: str
    monitor: str
    """The metric that picks the best epoch; more is better."""

    @abstractmethod
    def targets(self, truths: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
        """What N samples are labelled with, as the loss and the metrics take it: [N, ...]."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """The mean loss of a batch, a scalar."""

    @abstractmethod
    def metrics(self, labels: Sequence[str]) -> MetricCollection:
        """Fresh metrics, each a figure in 0..1."""

    @abstractmethod
    def update(self, metrics: MetricCollection, answers: Sequence[Tensor], targets: Tensor) -> None:
        """Count a batch. answers: a model's outputs in the order of its spec, each [N, ...]."""
