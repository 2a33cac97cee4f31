"""Renders the page about a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from train.reports.confusion_view import ConfusionView, confusion_view
from train.reports.evaluation import RunEvaluation
from train.reports.intervals import Interval
from train.reports.line_chart import LineChart, line_chart
from train.reports.metric_words import explanation, parse_metric, short_name
from train.reports.overlays import COMPARISON_LEGEND
from tritonkit import pages
from tritonkit.evaluation.tasks.embedding import EmbeddingEvaluation
from tritonkit.evaluation.tasks.multiclass import MulticlassEvaluation
from tritonkit.evaluation.tasks.multilabel import MultilabelEvaluation
from tritonkit.evaluation.tasks.segmentation import SegmentationEvaluation
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import ModelSpec
from tritonkit.system.console import duration

_TEMPLATE = "run_page.html.jinja"
_PARTS = {"test": "test", "val": "validation"}
_MAX_LABELS = 30
"""Rows of the table of labels that are open; the others are folded."""


class Export(NamedTuple):
    """A published version that was made from the run's best checkpoint."""

    repository: str
    model: str
    version: str
    verdict: Verdict
    page: str | None
    """A relative link to the verdict's page."""


@dataclass(frozen=True)
class Contents:
    """What is known about a run."""

    name: str
    run: str
    task: str
    spec: ModelSpec | None
    """None for an unfinished run."""
    monitor: str | None
    epochs: Sequence[Mapping[str, float]]
    planned_epochs: int | None
    evaluation: RunEvaluation | None
    part: str | None
    metrics: Mapping[str, float | None]
    """Of the best epoch on the part."""
    val_metrics: Mapping[str, float]
    """Where the part is test: the same metrics on val."""
    image_counts: Mapping[str, int]
    images: Mapping[str, str]
    """Data URLs by name."""
    exports: Sequence[Export]
    export_failed: bool
    """Whether an export was configured; with no exports, it failed."""
    lineage: Mapping[str, str | None]
    config: str


class MetricRow(NamedTuple):
    """A row of a table of metrics."""

    name: str
    title: str
    words: str
    value: float | None
    interval: Interval | None
    val: float | None


class LabelRow(NamedTuple):
    """The figures of one label."""

    label: str
    images: int | None
    metrics: tuple[MetricRow, ...]
    precision: float | None
    recall: float | None


class LabelTable(NamedTuple):
    """The figures of the labels of one head."""

    head: str
    metrics: tuple[str, ...]
    has_images: bool
    has_precision: bool
    rows: tuple[LabelRow, ...]


def render(contents: Contents) -> str:
    """Return the page as HTML."""
    evaluation = contents.evaluation
    matrices = [confusion_view(*item) for item in evaluation.confusion.items()] if evaluation else []
    part = _PARTS.get(contents.part or "", "")
    best = _best_epoch(contents)
    return (
        pages.templates(Path(__file__).parent)
        .get_template(_TEMPLATE)
        .render(
            run=contents,
            part=part,
            count=evaluation.images if evaluation else contents.image_counts.get(contents.part or ""),
            best=best,
            headline=_headline(contents),
            sentence=_sentence(contents, part),
            rows=[_row(contents, name) for name in contents.metrics if not parse_metric(name).label],
            charts=_charts(contents, None if best is None else best["epoch"]),
            matrices=matrices,
            tables=_label_tables(contents, matrices),
            open_labels=_MAX_LABELS,
            short_name=short_name,
            duration=duration,
            legend=COMPARISON_LEGEND,
        )
    )


def _best_epoch(contents: Contents) -> Mapping[str, float] | None:
    name = f"val_{contents.monitor}"
    return max((row for row in contents.epochs if name in row), key=lambda row: row[name], default=None)


def _headline(contents: Contents) -> MetricRow | None:
    """The metric that selected the best epoch; of an unfinished run, on val so far."""
    if contents.monitor is None:
        return None
    if contents.monitor in contents.metrics:
        return _row(contents, contents.monitor)
    best = _best_epoch(contents)
    if contents.spec is not None or best is None:
        return None
    title, words = short_name(contents.monitor), explanation(contents.monitor)
    return MetricRow(contents.monitor, title, words, best[f"val_{contents.monitor}"], None, None)


def _sentence(contents: Contents, part: str) -> str:
    """The result in plain words."""
    evaluation = contents.evaluation
    if evaluation is None:
        return ""
    correct, total = evaluation.counts.get(evaluation.monitor, (0, 0))
    right = evaluation.images - evaluation.mistakes
    value = evaluation.metrics.get(evaluation.monitor)
    if contents.task == MulticlassEvaluation.name and total:
        return f"{correct:,} of {total:,} {part} images are recognised correctly."
    if contents.task == EmbeddingEvaluation.name and total:
        return f"For {correct:,} of {total:,} {part} images, the most similar image is of the same class."
    if contents.task == SegmentationEvaluation.name and value is not None:
        return f"On {evaluation.images:,} {part} images, predicted and true areas overlap by {100 * value:.1f} % (IoU)."
    if contents.task == MultilabelEvaluation.name:
        return f"On {right:,} of {evaluation.images:,} {part} images, every label is decided correctly."
    if contents.spec is not None and contents.spec.heads:
        return f"On {right:,} of {evaluation.images:,} {part} images, every head is right."
    return ""


def _row(contents: Contents, name: str) -> MetricRow:
    interval = contents.evaluation.intervals.get(name) if contents.evaluation else None
    value, val = contents.metrics[name], contents.val_metrics.get(name)
    return MetricRow(name, short_name(name), explanation(name), value, interval, val)


def _charts(contents: Contents, best: float | None) -> list[LineChart]:
    """Losses, metrics and learning rate over the epochs."""
    rows = contents.epochs
    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = [name for name in names if name.endswith("loss")]
    metrics = [name for name in names if name.startswith("val_") and name not in losses]
    metrics.sort(key=lambda name: name != f"val_{contents.monitor}")
    groups = (
        ("Loss", {name.replace("_", " "): name for name in losses}, None),
        ("Metrics on the validation part", {short_name(name.removeprefix("val_")): name for name in metrics}, best),
        ("Learning rate", {"learning rate": "lr"}, None),
    )
    charts = [
        line_chart(
            title,
            {words: [(row["epoch"], row[name]) for row in rows if name in row] for words, name in lines.items()},
            at,
        )
        for title, lines, at in groups
    ]
    return [chart for chart in charts if chart is not None]


def _label_tables(contents: Contents, matrices: Sequence[ConfusionView]) -> list[LabelTable]:
    """The figures of single labels, by head."""
    evaluation = contents.evaluation
    by_head: dict[str, dict[str, list[MetricRow]]] = {}
    for name in contents.metrics:
        head, _, label = parse_metric(name)
        if label:
            by_head.setdefault(head, {}).setdefault(label, []).append(_row(contents, name))
    views = {view.head: view for view in matrices}
    tables = []
    for head, labels in by_head.items():
        view = views.get(head)
        rows = tuple(
            LabelRow(
                label,
                evaluation.labels.get(f"{head}={label}" if head else label) if evaluation else None,
                tuple(metrics),
                view.precision.get(label) if view else None,
                view.recall.get(label) if view else None,
            )
            for label, metrics in labels.items()
        )
        kinds = tuple(
            dict.fromkeys(
                short_name(row.name.partition("/")[0].rpartition(".")[2]) for each in labels.values() for row in each
            )
        )
        if len(rows) > _MAX_LABELS:  # the worst first
            rows = tuple(sorted(rows, key=lambda row: row.metrics[0].value or 0))
        has_images = any(row.images is not None for row in rows)
        tables.append(LabelTable(head, kinds, has_images, bool(view and view.is_square), rows))
    return tables
