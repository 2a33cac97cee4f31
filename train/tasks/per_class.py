"""Metrics by class, and their mean over classes with samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Positives = Callable[[Tensor], Tensor]
"""Counts the samples of each class in a batch of targets: [C]."""


class PerClassMetric(Metric):
    """A metric for each class, [C]; NaN for a class without samples."""

    positives: Tensor
    total: Tensor

    def __init__(self, metric: Metric, classes: int, positives: Positives, needs_others: bool = False) -> None:
        """metric: returns a value for each class. needs_others: it also needs samples of other classes."""
        super().__init__()
        self.metric, self._count, self._needs_others = metric, positives, needs_others
        self.add_state("positives", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.metric.update(outputs, targets)
        self.positives += self._count(targets)
        self.total += len(targets)

    def compute(self) -> Tensor:
        """Return the values so far."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torchmetrics\.")  # about classes that become NaN below
            values: Tensor = self.metric.compute()
        measurable = self.positives > 0
        if self._needs_others:
            measurable &= self.positives < self.total
        return torch.where(measurable, values.to(measurable.device), torch.nan)

    def reset(self) -> None:
        """Clear all counts."""
        super().reset()
        self.metric.reset()


class PerClassMean(PerClassMetric):
    """The mean over the classes with samples; NaN if there are none. Classes before `first` are left out."""

    def __init__(self, *arguments: Any, first: int = 0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._first = first

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return super().compute()[self._first :].nanmean()


def count_class_numbers(classes: int) -> Positives:
    """Return a counter for targets of class numbers, for images or pixels; larger numbers are ignored."""

    def count(targets: Tensor) -> Tensor:
        numbers = targets.flatten().long()
        return torch.bincount(numbers[numbers < classes], minlength=classes)

    return count


def count_label_columns(targets: Tensor) -> Tensor:
    """Count the positives in targets [N, C] of 0 and 1."""
    return (targets > 0).sum(dim=0)
