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
from model.spec import TaskSpec
from model.tasks.base import Targets
from train.losses import MULTILABEL, balanced_weights, weighted_sum
from train.part_names import tells_split
from train.samples import IMAGE, LABELS, MASK, Row, Truth, fact, is_soft, listed
from train.tasks.base import Batched, TrainingTask, natural
from train.tasks.by_class import ByClass, MeanByClass, of_columns
from train.tasks.confusion import Confusion
from train.tasks.measures import Measures

NOT_LABELS = {IMAGE, LABELS, MASK}
SEPARATOR = "|"
"""Between the labels of one cell of a CSV."""
_SOFT = "; labels between 0 and 1 are not learned, round them"


class MultilabelTraining(TrainingTask):
    """Truths are tuples of the labels that hold. In a row: a column of 0 or 1 each, or one with all that hold."""

    name = "multilabel"
    monitor = "map"
    column = LABELS
    usual_loss = "bce"

    def truth(self, row: Row) -> Truth:
        if self.truth_column in row:
            return self._listed(row[self.truth_column])
        if self.config.column is not None:
            raise ValueError(f"no column `{self.truth_column}`; the columns are: {', '.join(row)}")
        cells = {label: row[label] for label in self.declared(list(row))}
        if not cells:
            raise ValueError(f"no column of a label; the columns are: {', '.join(row)}")
        wrong = [f"{label} {cell!r}" for label, cell in cells.items() if fact(cell) is None]
        if wrong:
            soft = _SOFT if any(is_soft(cell) for cell in cells.values()) else ""
            raise ValueError(f"expected a column of 0 or 1 for each label, got {', '.join(wrong[:3])}{soft}")
        return _in_order(label for label, cell in cells.items() if fact(cell))

    def _listed(self, value: Any) -> Truth:
        if value is None or value == "":
            raise ValueError(f"there is no value for {self.truth_column} (`{SEPARATOR}` is no label)")
        if fact(value) is not None:
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

    def table_problems(self, columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
        if self.truth_column in columns or self.config.column is not None:
            return []
        labels = self.declared(columns)
        if lacking := [name for name in self.named or () if name not in columns]:
            there = ", ".join(columns)
            return [f"no column `{lacking[0]}`, which data.labels names; the columns are: {there:.300}"]
        split = [name for name in labels if tells_split(name)] if self.named is None else []
        # A column whose cells are no facts at all is none of a label; single cells are told by their rows.
        odd = {name: [row[name] for row in rows if name in row and fact(row[name]) is None] for name in labels}
        others = [name for name in labels if 2 * len(odd[name]) > len(rows)]
        if not split and not others:
            return []
        kept = ", ".join(name for name in labels if name not in {*split, *others})
        cure = f"; name the columns that are labels with data.labels: [{kept}] (or --labels {kept.replace(', ', ',')})"
        problems = [f"column {name} seems to say which part a picture is in" for name in split]
        for name in others:
            shown = ", ".join(dict.fromkeys(repr(cell) for cell in odd[name]))
            soft = _SOFT if all(is_soft(cell) for cell in odd[name]) else ""
            problems.append(f"column {name} holds {shown:.80}, expected 0 or 1 for each label{soft}")
        return [*problems[:-1], problems[-1] + (cure if kept else "")]

    def declared(self, columns: Sequence[str]) -> Sequence[str]:
        if self.truth_column in columns:
            return ()
        if self.named is not None:
            return [column for column in columns if column in self.named]
        return [column for column in columns if column not in NOT_LABELS]

    def validate_splits(self, truths: Mapping[str, Sequence[Truth]], question: TaskSpec, least: int) -> list[str]:
        train = truths["train"]
        always = [label for label in question.labels if train and all(label in truth for truth in train)]
        constant = listed(
            "labels that each picture of train has, so that nothing can be learned; leave them out", always
        )
        return super().validate_splits(truths, question, least) + constant

    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
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

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        return np.array([label in truth for label in question.labels], dtype=np.float32)

    def golden_targets(self, targets: Batched) -> Targets:
        return {self.output or "probabilities": targets.numpy().astype(np.uint8)}

    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            """Pictures without a label for each with it: scikit-learn's weights of yes and no, as their ratio."""
            counts = Counter(label for truth in truths for label in truth)
            facts = {label: {label: counts[label], "no": len(truths) - counts[label]} for label in question.labels}
            weights = {label: balanced_weights(each, tuple(each)) for label, each in facts.items()}
            return {label: each[label] / each["no"] for label, each in weights.items()}

        return weighted_sum(self.config.loss, self.usual_loss, MULTILABEL, question, balanced)

    def metrics(self, question: TaskSpec, detailed: bool) -> Measures:
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

    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        """The farthest that a wrongly decided label is from its truth."""
        probabilities, truth = self._answers(outputs, question), self._answers(targets, question)
        wrong = self._decided(outputs, question) != (truth > 0)
        worst: NDArray[np.float64] = np.where(wrong, np.abs(probabilities - truth), 0.0).max(axis=1)
        return worst

    def confusion(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> dict[str, Confusion]:
        """For each label: how often it was found, missed, and said where it does not hold."""
        decided, truth = self._decided(outputs, question), self._answers(targets, question) > 0
        counts = [(decided & truth).sum(axis=0), (~decided & truth).sum(axis=0), (decided & ~truth).sum(axis=0)]
        table = Confusion(question.labels, ("found", "missed", "invented"), np.stack(counts, axis=1))
        return {"": table}

    def _decided(self, outputs: Outputs, question: TaskSpec) -> NDArray[np.bool_]:
        limits = np.array([question.threshold(label) for label in question.labels])
        decided: NDArray[np.bool_] = self._answers(outputs, question) >= limits
        return decided


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once; in whatever order they were written, they say the same."""
    return tuple(sorted(set(labels), key=natural))
