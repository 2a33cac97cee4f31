"""What the commands of `train` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tritonkit.system.console import print_json, table

if TYPE_CHECKING:
    from train.engine.fit import FitResult


def print_fit_result(result: FitResult, as_json: bool, measured: str = "best epoch") -> None:
    """Print the metrics of a finished run, and as the last line its checkpoint."""
    if as_json:
        print_json(result)
        return
    print_metrics(f"{result.run}, {measured}", result.metrics)
    if result.exported is not None:
        print(f"exported: {result.exported}")
    if result.report is not None:
        print(f"report: {result.report}")
    print(result.checkpoint)


def print_metrics(title: str, metrics: Mapping[str, float | None]) -> None:
    """Print a table of metrics; `-` for one that cannot be measured."""
    print(title)
    table(("metric", "value"), [(name, format_metric(value)) for name, value in metrics.items()])


def format_metric(value: float | None) -> str:
    """Return a metric with four decimals; `-` for one that cannot be measured."""
    return "-" if value is None else f"{value:.4f}"
