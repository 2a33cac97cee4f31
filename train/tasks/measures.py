"""Figures that are counted batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

Count = Callable[[str, Metric, Mapping[str, Tensor], Any], None]
"""Given a metric's name, the metric, a model's outputs [N, ...] by name, and the targets: count a batch."""


class Measures(nn.Module):
    """Metrics by name, each a figure in 0..1 or NaN where it cannot be measured, and how they are fed."""

    def __init__(self, metrics: Mapping[str, Metric], count: Count) -> None:
        super().__init__()
        self.metrics: Any = nn.ModuleDict(dict(metrics))
        self._count = count

    def update(self, outputs: Mapping[str, Tensor], targets: Any) -> None:
        """Count a batch of a model's outputs [N, ...] by name."""
        for name, metric in self.metrics.items():
            self._count(name, metric, outputs, targets)

    def compute(self) -> dict[str, Tensor]:
        """The figures so far; a metric by class gives one for each."""
        figures: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            value = metric.compute()
            figures.update(value if isinstance(value, dict) else {name: value})
        return figures

    def reset(self) -> None:
        """Begin anew."""
        for metric in self.metrics.values():
            metric.reset()


class HeadMeasures(nn.Module):
    """The measures of several heads under their names, and `mean`: of what the heads are judged by, where measured."""

    def __init__(self, heads: dict[str, Measures | HeadMeasures], monitors: Mapping[str, str]) -> None:
        super().__init__()
        self._names, self._heads = tuple(heads), nn.ModuleList(heads.values())
        self._monitors = dict(monitors)

    def update(self, outputs: Mapping[str, Tensor], targets: Any) -> None:
        """As `Measures.update`; targets are by head."""
        for name, measures in self._by_name().items():
            measures.update(outputs, targets[name])

    def compute(self) -> dict[str, Tensor]:
        """As `Measures.compute`."""
        by_head = {name: measures.compute() for name, measures in self._by_name().items()}
        judged = [by_head[name][monitor] for name, monitor in self._monitors.items()]
        figures = {"mean": torch.stack(judged).nanmean()}
        return figures | {f"{name}.{key}": value for name, each in by_head.items() for key, value in each.items()}

    def reset(self) -> None:
        """As `Measures.reset`."""
        for measures in self._by_name().values():
            measures.reset()

    def _by_name(self) -> dict[str, Any]:
        return dict(zip(self._names, self._heads, strict=True))
