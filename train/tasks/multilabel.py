"""Multilabel: binary cross-entropy on each label; mean average precision, and F1 at the thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision, MultilabelF1Score

from model.preprocess import Preprocess
from model.runners.base import Outputs
from model.spec import Question
from model.tasks.base import Targets
from train.losses import MULTILABEL, balanced_weights, weighted_sum
from train.samples import IMAGE, LABELS, MASK, Row, Truth
from train.tasks.base import Batched, TrainingTask, natural
from train.tasks.by_class import ByClass, MeanByClass, of_columns
from train.tasks.confusion import Confusion
from train.tasks.measures import Measures

NOT_LABELS = {IMAGE, LABELS, MASK}
SEPARATOR = "|"
"""Between the labels of one cell of a CSV."""


class MultilabelTraining(TrainingTask):
    """Truths are tuples of the labels that hold. In a row: a column of 0 or 1 each, or one with all that hold."""

    name = "multilabel"
    monitor = "map"
    column = LABELS
    usual_loss = "bce"

    def truth(self, row: Row) -> Truth:
        if self.config.column is not None and self.truth_column not in row:
            raise ValueError(f"expected labels in a column {self.truth_column}, there are {', '.join(row)}")
        if self.truth_column in row:
            value = row[self.truth_column]
            if value in ("0", "1"):
                raise ValueError(
                    f"expected labels in column {self.truth_column}, got {value}; for a column of 0 or 1 each, leave "
                    "`column` out"
                )
            labels = value.split(SEPARATOR) if isinstance(value, str) else value
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"expected a list of labels in {self.truth_column}, got {value!r:.80}")
            held = _in_order(label.strip() for label in labels if label.strip())
            unfit = [label for label in held if label in NOT_LABELS or SEPARATOR in label]
            if unfit:
                raise ValueError(f"a label {unfit[0]!r} could not be told from a column or a list; rename it")
            return held
        cells = {label: str(row[label]) for label in self.declared(list(row))}
        wrong = [f"{label} {cell!r}" for label, cell in cells.items() if cell not in ("0", "1")]
        if wrong or not cells:
            came = ", ".join(wrong[:3]) or "no column of a label"
            raise ValueError(f"expected a column of 0 or 1 for each label, got {came}")
        return _in_order(label for label, cell in cells.items() if cell == "1")

    def declared(self, columns: Sequence[str]) -> Sequence[str]:
        if self.truth_column in columns:
            return ()
        return [column for column in columns if column not in NOT_LABELS]

    def row(self, truth: Truth, question: Question) -> dict[str, str]:
        if self.output is not None:
            return {self.truth_column: SEPARATOR.join(truth) or SEPARATOR}
        return {label: str(int(label in truth)) for label in question.labels}

    def classes(self, truth: Truth) -> Sequence[str]:
        return tuple(truth)

    def unmeasurable(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        return None if any(truths) else "no picture of val has a label"

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """Probabilities at random: the mean share of the pictures that a label has."""
        counts = Counter(label for truth in truths for label in truth)
        return {"": {"map": sum(counts.values()) / len(counts) / len(truths)}} if counts else {}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: Question) -> Any:
        return np.array([label in truth for label in question.labels], dtype=np.float32)

    def golden_targets(self, targets: Batched) -> Targets:
        return {self.output or "probabilities": targets.numpy().astype(np.uint8)}

    def loss(self, question: Question, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            """Pictures without a label for each with it: scikit-learn's weights of yes and no, as their ratio."""
            counts = Counter(label for truth in truths for label in truth)
            facts = {label: {label: counts[label], "no": len(truths) - counts[label]} for label in question.labels}
            weights = {label: balanced_weights(each, tuple(each)) for label, each in facts.items()}
            return {label: each[label] / each["no"] for label, each in weights.items()}

        return weighted_sum(self.config.loss, self.usual_loss, MULTILABEL, question, balanced)

    def metrics(self, question: Question, detailed: bool) -> Measures:
        count, labels = len(question.labels), list(question.labels)
        f1, columns = partial(MultilabelF1Score, count, average="none"), (count, of_columns)
        metrics: dict[str, Metric] = {
            "map": MeanByClass(MultilabelAveragePrecision(count, average="none"), *columns),
            "macro_f1": MeanByClass(f1(), *columns),
        }
        if detailed:
            metrics["auroc"] = MeanByClass(MultilabelAUROC(count, average="none"), *columns, needs_others=True)
            metrics["f1"] = ClasswiseWrapper(ByClass(f1(), *columns), labels, prefix="f1/")
        thresholds = torch.tensor([question.threshold(label) for label in labels])

        def count_batch(name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: Batched) -> None:
            """F1 is of what the thresholds decide, the others of the probabilities."""
            given = outputs[self.output or "probabilities"]
            decided = (given >= thresholds.to(given.device)).int()
            metric.update(decided if "f1" in name else given, targets.int())

        return Measures(metrics, count_batch)

    def wrongness(self, outputs: Outputs, targets: Targets, question: Question) -> NDArray[np.float64]:
        """The farthest that a wrongly decided label is from its truth."""
        probabilities, truth = self._answers(outputs, question), self._answers(targets, question)
        wrong = self._decided(outputs, question) != (truth > 0)
        worst: NDArray[np.float64] = np.where(wrong, np.abs(probabilities - truth), 0.0).max(axis=1)
        return worst

    def confusion(self, outputs: Outputs, targets: Targets, question: Question) -> dict[str, Confusion]:
        """For each label: how often it was found, missed, and said where it does not hold."""
        decided, truth = self._decided(outputs, question), self._answers(targets, question) > 0
        counts = [(decided & truth).sum(axis=0), (~decided & truth).sum(axis=0), (decided & ~truth).sum(axis=0)]
        table = Confusion(question.labels, ("found", "missed", "invented"), np.stack(counts, axis=1))
        return {"": table}

    def _decided(self, outputs: Outputs, question: Question) -> NDArray[np.bool_]:
        limits = np.array([question.threshold(label) for label in question.labels])
        decided: NDArray[np.bool_] = self._answers(outputs, question) >= limits
        return decided


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once; in whatever order they were written, they say the same."""
    return tuple(sorted(set(labels), key=natural))
