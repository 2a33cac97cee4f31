"""Prints a comparison of two records as a table."""

from __future__ import annotations

from benchmarks.records.bootstrap import Metric
from benchmarks.records.compare import ComparisonRow, RecordComparison
from tritonkit.system.console import print_text, table

TITLES: dict[Metric, str] = {"images_per_s": "images/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms"}


def print_comparison(comparison: RecordComparison) -> None:
    """Print a row for each level and metric, what differs between the records, and remarks."""
    print_text(f"old: {comparison.old}\nnew: {comparison.new}")
    table(*comparison_table(comparison))
    print_text("\n".join(comparison_sentences(comparison)))


def comparison_table(comparison: RecordComparison) -> tuple[list[str], list[list[str]]]:
    """Return the headings and a row for each level and metric."""
    headings = ["load", "metric", "old", "new", "change", "interval"]
    if comparison.machine is not None:
        headings.append("without drift")
    return [*headings, "verdict"], [_cells(row) for row in comparison.rows]


def comparison_sentences(comparison: RecordComparison) -> list[str]:
    """Return the verdict, the change of the machine, what differs between the records, and remarks."""
    rule = (
        f"a change counts if its whole interval lies beyond {comparison.tolerance:.3g}; all intervals together have a "
        f"confidence of {comparison.confidence:.3g}"
    )
    verdict = comparison.verdict
    sentences = [f"verdict: {verdict}" if verdict == "not judged" else f"verdict: {verdict} ({rule})"]
    if machine := comparison.machine:
        spread = f" ({_change(machine.low)} to {_change(machine.high)})" if machine.low < machine.high else ""
        sentences.append(
            f"machine: {_change(machine.ratio)}{spread}, measured by the limit; beyond the tolerance, a change of this "
            "size does not count"
        )
    sentences += [f"differs: {difference}" for difference in comparison.changes]
    return sentences + [f"note: {remark}" for remark in comparison.remarks]


def _cells(row: ComparisonRow) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{_change(row.low)} to {_change(row.high)}"
    corrected = [] if row.corrected is None else [_change(row.corrected)]
    figures = [f"{row.old:,.2f}", f"{row.new:,.2f}", _change(row.ratio), interval, *corrected]
    return [row.load, TITLES[row.metric], *figures, row.verdict]


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"
