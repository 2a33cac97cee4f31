"""Collections of metrics that are updated batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

Count = Callable[[str, Metric, Mapping[str, Tensor], Any], None]
"""Updates one metric with a batch: (metric's name, metric, outputs [N, ...] by name, targets)."""


class Measures(nn.Module):
    """Metrics by name, each a value in 0..1, or NaN if it cannot be measured, with the function that updates them."""

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

    def reset(self) -> None:
        """Like `Measures.reset`."""
        for measures in self._by_name().values():
            measures.reset()

    def _by_name(self) -> dict[str, Any]:
        return dict(zip(self._names, self._heads, strict=True))
