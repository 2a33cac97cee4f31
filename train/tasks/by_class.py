"""Figures by class, and their mean over the classes that can be measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Positives = Callable[[Tensor], Tensor]
"""From a batch's targets, how many of each class there are: [C]."""


class ByClass(Metric):
    """A metric of each class, [C]; NaN for a class that the truth lacks, of which nothing can be said."""

    positives: Tensor
    judged: Tensor

    def __init__(self, metric: Metric, classes: int, positives: Positives, needs_others: bool = False) -> None:
        """metric: gives a figure for each class. needs_others: it compares a class's pictures with the others."""
        super().__init__()
        self.metric, self._count, self._needs_others = metric, positives, needs_others
        self.add_state("positives", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("judged", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        self.metric.update(outputs, targets)
        self.positives += self._count(targets)
        self.judged += len(targets)

    def compute(self) -> Tensor:
        """The figures so far."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torchmetrics\.")  # of the classes that are left out here
            values: Tensor = self.metric.compute()
        measurable = self.positives > 0
        if self._needs_others:
            measurable &= self.positives < self.judged
        return torch.where(measurable, values.to(measurable.device), torch.nan)

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.metric.reset()


class MeanByClass(ByClass):
    """The mean over the classes that can be measured; NaN where none can. `first` leaves out those before it."""

    def __init__(self, *arguments: Any, first: int = 0, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._first = first

    def compute(self) -> Tensor:
        """The mean so far."""
        return super().compute()[self._first :].nanmean()


def of_numbers(classes: int) -> Positives:
    """For targets that are class numbers, of pictures or pixels; numbers beyond the classes are not judged."""

    def count(targets: Tensor) -> Tensor:
        numbers = targets.flatten().long()
        return torch.bincount(numbers[numbers < classes], minlength=classes)

    return count


def of_columns(targets: Tensor) -> Tensor:
    """For targets [N, C] of 0 and 1."""
    return (targets > 0).sum(dim=0)
