"""Multilabel: mean average precision, and F1 at the thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision, MultilabelF1Score

from tritonkit.errors import Problem
from tritonkit.evaluation.samples.part_names import is_split_column
from tritonkit.evaluation.samples.sample import (
    IMAGE,
    LABELS,
    MASK,
    Row,
    RowError,
    Truth,
    is_soft_label,
    listed,
    parse_bool,
)
from tritonkit.evaluation.tasks.base import BatchTargets, EvaluationTask, natural_sort_key
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.evaluation.tasks.metrics import Measures, PerClassMean, PerClassMetric, count_label_columns
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks.base import Targets

NOT_LABELS = {IMAGE, LABELS, MASK}
SEPARATOR = "|"
"""Separates labels in one cell of a CSV."""
_SOFT = "; labels between 0 and 1 are not supported, round them"


class MultilabelEvaluation(EvaluationTask):
    """A multilabel classifier. A truth is the tuple of an image's labels.

    A row has either a column of 0 or 1 for each label, or one column with the list of labels.
    """

    name = "multilabel"
    monitor = "map"
    column = LABELS

    def truth(self, row: Row) -> Truth:
        if self.truth_column in row:
            return self._parse_list(row[self.truth_column])
        if self.config.column is not None:
            raise RowError(
                f"no column `{self.truth_column}`; the columns are: {', '.join(row)}", code="data.missing_column"
            )
        cells = {label: row[label] for label in self.declared_labels(list(row))}
        if not cells:
            raise RowError(f"no label column; the columns are: {', '.join(row)}", code="data.no_label_column")
        wrong = [f"{label} {cell!r}" for label, cell in cells.items() if parse_bool(cell) is None]
        if wrong:
            soft = _SOFT if any(is_soft_label(cell) for cell in cells.values()) else ""
            text = f"expected a column of 0 or 1 for each label, got {', '.join(wrong[:3])}{soft}"
            if soft:
                raise RowError(text, code="data.soft_label")
            raise RowError(text, code="data.not_binary")
        return _in_order(label for label, cell in cells.items() if parse_bool(cell))

    def _parse_list(self, value: Any) -> Truth:
        if value is None or value == "":
            raise RowError(
                f"there is no value for {self.truth_column} (write `{SEPARATOR}` for no label)", code="data.blank_cell"
            )
        if parse_bool(value) is not None:
            raise RowError(
                f"expected labels in column {self.truth_column}, got {value}; for a column of 0 or 1 for each label, "
                "leave `column` out",
                code="data.binary_label_list",
            )
        labels = value.split(SEPARATOR) if isinstance(value, str) else value
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise RowError(
                f"expected a list of labels in {self.truth_column}, got {value!r:.80}", code="data.not_a_label_list"
            )
        present = _in_order(label.strip() for label in labels if label.strip())
        reserved = [label for label in present if label in NOT_LABELS or SEPARATOR in label]
        if reserved:
            raise RowError(
                f"the label {reserved[0]!r} looks like a column name or a list; rename it", code="data.reserved_label"
            )
        return present

    def table_problems(self, columns: Sequence[str], rows: Sequence[Row]) -> list[Problem]:
        if self.truth_column in columns or self.config.column is not None:
            return []
        labels = self.declared_labels(columns)
        if missing := [name for name in self.label_names or () if name not in columns]:
            text = f"no column `{missing[0]}`, which data.labels lists; the columns are: {', '.join(columns):.300}"
            return [Problem("data.missing_column", text)]
        split = [name for name in labels if is_split_column(name)] if self.label_names is None else []
        # A column where most cells are not 0 or 1 is not a label column; single bad cells are reported with their rows.
        bad_cells = {
            name: [row[name] for row in rows if name in row and parse_bool(row[name]) is None] for name in labels
        }
        others = [name for name in labels if 2 * len(bad_cells[name]) > len(rows)]
        if not split and not others:
            return []
        remaining = ", ".join(name for name in labels if name not in {*split, *others})
        hint = f"; list the label columns in data.labels: [{remaining}] (or --labels {remaining.replace(', ', ',')})"
        problems = [
            Problem("data.split_column_as_label", f"column {name} seems to hold the part of each image")
            for name in split
        ]
        for name in others:
            values = ", ".join(dict.fromkeys(repr(cell) for cell in bad_cells[name]))
            text = f"column {name} contains {values:.80}, expected 0 or 1 for each label"
            if all(is_soft_label(cell) for cell in bad_cells[name]):
                problems.append(Problem("data.soft_label", text + _SOFT))
            else:
                problems.append(Problem("data.not_binary", text))
        last = problems[-1]
        return [*problems[:-1], Problem(last.code, last.message + (hint if remaining else ""))]

    def declared_labels(self, columns: Sequence[str]) -> Sequence[str]:
        if self.truth_column in columns:
            return ()
        if self.label_names is not None:
            return [column for column in columns if column in self.label_names]
        return [column for column in columns if column not in NOT_LABELS]

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        train = truths["train"]
        always = [label for label in task_spec.labels if train and all(label in truth for truth in train)]
        constant = listed(
            "labels that every image of train has, so that nothing can be learned; leave them out",
            always,
            code="data.constant_label",
        )
        return super().validate_splits(truths, task_spec, minimum) + constant

    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        if self.output is not None:
            return {self.truth_column: SEPARATOR.join(truth) or SEPARATOR}
        return {label: str(int(label in truth)) for label in task_spec.labels}

    def classes(self, truth: Truth) -> Sequence[str]:
        return tuple(truth)

    def monitor_problem(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        return None if any(truths) else "no image of val has a label"

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Probabilities at random: the mean share of the images that a label has."""
        counts = Counter(label for truth in truths for label in truth)
        return {"": {"map": sum(counts.values()) / len(counts) / len(truths)}} if counts else {}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return np.array([label in truth for label in task_spec.labels], dtype=np.float32)

    def golden_targets(self, targets: BatchTargets) -> Targets:
        return {self.output or "probabilities": targets.numpy().astype(np.uint8)}

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures:
        count, labels = len(task_spec.labels), list(task_spec.labels)
        f1, columns = partial(MultilabelF1Score, count, average="none"), (count, count_label_columns)
        metrics: dict[str, Metric] = {
            "map": PerClassMean(MultilabelAveragePrecision(count, average="none"), *columns),
            "macro_f1": PerClassMean(f1(), *columns),
        }
        if detailed:
            metrics["auroc"] = PerClassMean(MultilabelAUROC(count, average="none"), *columns, needs_others=True)
            metrics["f1"] = ClasswiseWrapper(PerClassMetric(f1(), *columns), labels, prefix="f1/")
        thresholds = torch.tensor([task_spec.threshold(label) for label in labels])

        def count_batch(name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: BatchTargets) -> None:
            """Update F1 with the decisions at the thresholds, other metrics with the probabilities."""
            probabilities = outputs[self.output or "probabilities"]
            decided = (probabilities >= thresholds.to(probabilities.device)).int()
            metric.update(decided if "f1" in name else probabilities, targets.int())

        return Measures(metrics, count_batch)

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        """Score the largest difference between probability and truth of a wrongly decided label."""
        probabilities, truth = self._answers(outputs, task_spec), self._answers(targets, task_spec)
        wrong = self._decided(outputs, task_spec) != (truth > 0)
        worst: NDArray[np.float64] = np.where(wrong, np.abs(probabilities - truth), 0.0).max(axis=1)
        return worst

    def confusion(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> dict[str, ConfusionMatrix]:
        """Count for each label how often it was found, missed, and predicted wrongly."""
        decided, truth = self._decided(outputs, task_spec), self._answers(targets, task_spec) > 0
        counts = [(decided & truth).sum(axis=0), (~decided & truth).sum(axis=0), (decided & ~truth).sum(axis=0)]
        table = ConfusionMatrix(task_spec.labels, ("found", "missed", "invented"), np.stack(counts, axis=1))
        return {"": table}

    def _decided(self, outputs: Outputs, task_spec: TaskSpec) -> NDArray[np.bool_]:
        limits = np.array([task_spec.threshold(label) for label in task_spec.labels])
        decided: NDArray[np.bool_] = self._answers(outputs, task_spec) >= limits
        return decided


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return each label once, sorted, so that the order in the data does not matter."""
    return tuple(sorted(set(labels), key=natural_sort_key))
