"""Metrics that are updated batch by batch: collections of them, and metrics by class with their mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

Count = Callable[[str, Metric, Mapping[str, Tensor], Any], None]
"""Updates one metric with a batch: (metric's name, metric, outputs [N, ...] by name, targets)."""


class Measures(nn.Module):
    """Metrics by name, with the function that updates them. A value is in 0..1, an error at least 0.

    NaN stands for a metric that cannot be measured. torchmetrics' `higher_is_better` of a metric is False for an error.
    """

    def __init__(self, metrics: Mapping[str, Metric], count: Count) -> None:
        super().__init__()
        self.metrics: Any = nn.ModuleDict(dict(metrics))
        self._count = count

    def update(self, outputs: Mapping[str, Tensor], targets: Any) -> None:
        """Add a batch of outputs [N, ...] by name."""
        for name, metric in self.metrics.items():
            self._count(name, metric, outputs, targets)

    def compute(self) -> dict[str, Tensor]:
        """Return the values so far; a metric by class returns one for each class."""
        values: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            value = metric.compute()
            values.update(value if isinstance(value, dict) else {name: value})
        return values

    def lower_is_better(self) -> set[str]:
        """Return the names of the values that measure an error. Called after `compute`."""
        errors = {name: metric.compute() for name, metric in self.metrics.items() if metric.higher_is_better is False}
        return {key for name, value in errors.items() for key in (value if isinstance(value, dict) else [name])}

    def reset(self) -> None:
        """Clear all metrics."""
        for metric in self.metrics.values():
            metric.reset()


class HeadMeasures(nn.Module):
    """The metrics of several heads under their names, and `mean`: the mean of the heads' monitored metrics."""

    def __init__(self, heads: dict[str, Measures | HeadMeasures], monitors: Mapping[str, str]) -> None:
        super().__init__()
        self._names, self._heads = tuple(heads), nn.ModuleList(heads.values())
        self._monitors = dict(monitors)

    def update(self, outputs: Mapping[str, Tensor], targets: Any) -> None:
        """Like `Measures.update`; targets are by head."""
        for name, measures in self._by_name().items():
            measures.update(outputs, targets[name])

    def compute(self) -> dict[str, Tensor]:
        """Like `Measures.compute`."""
        by_head = {name: measures.compute() for name, measures in self._by_name().items()}
        monitored = [by_head[name][monitor] for name, monitor in self._monitors.items()]
        mean = {"mean": torch.stack(monitored).nanmean()}
        return mean | {f"{name}.{key}": value for name, each in by_head.items() for key, value in each.items()}

    def lower_is_better(self) -> set[str]:
        """Like `Measures.lower_is_better`."""
        return {f"{name}.{key}" for name, measures in self._by_name().items() for key in measures.lower_is_better()}

    def reset(self) -> None:
        """Like `Measures.reset`."""
        for measures in self._by_name().values():
            measures.reset()

    def _by_name(self) -> dict[str, Any]:
        return dict(zip(self._names, self._heads, strict=True))


Positives = Callable[[Tensor], Tensor]
"""Counts the samples of each class in a batch of targets: [C]."""


class PerClassMetric(Metric):
    """A metric for each class, [C]; NaN for a class without samples."""

    positives: Tensor
    total: Tensor

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """That of the metric."""
        return self.metric.higher_is_better

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
