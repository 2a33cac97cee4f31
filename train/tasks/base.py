"""What a task brings to training: its truths, loss and metrics. Nothing else here asks which task it is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model.preprocess import Geometry, Preprocess
from model.runners.base import Outputs
from model.spec import TaskSpec
from model.tasks import task_for
from model.tasks.base import Targets
from train.samples import Row, Sample, Truth, listed
from train.sections import HeadConfig
from train.tasks.confusion import Confusion
from train.tasks.measures import HeadMeasures, Measures

Batched = Any
"""The targets of a batch: a tensor [N, ...], or tensors by name."""


class TrainingTask(ABC):
    """The training side of a `model.tasks.Task` of the same name, with the configuration of one head."""

    name: ClassVar[str]
    monitor: ClassVar[str]
    """The metric that picks the best epoch; more is better."""
    column: ClassVar[str]
    """Where the truth stands in a row."""
    split_by: ClassVar[str] = "picture"
    usual_loss: ClassVar[str]
    dense: ClassVar[bool] = False
    """Whether it answers each pixel, which takes another kind of network."""
    compares: bool = False
    """Whether an answer is right or wrong only beside the others, so that all must be judged at once."""
    has_val_loss: bool = True
    """Whether the loss means something on classes that training does not know."""

    def __init__(self, config: HeadConfig, output: str | None = None, named: Sequence[str] | None = None) -> None:
        """`output` is the head's name where there are several; `named` are the labels that the configuration names."""
        self.config, self.output, self.named = config, output, named
        self.truth_column = config.column or output or self.column

    # What the data says.

    @abstractmethod
    def truth(self, row: Row) -> Truth:
        """What a row says of its picture. Raises ValueError with a sentence."""

    @abstractmethod
    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
        """The columns, beside the picture's path, that say it in a CSV."""

    @abstractmethod
    def classes(self, truth: Truth) -> Sequence[str]:
        """The classes that a picture is counted for."""

    @property
    def label_columns(self) -> Sequence[str]:
        """The columns that hold one label each."""
        return ()

    def table_problems(self, columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
        """What is wrong with the columns of a table as a whole; its rows are not looked at then."""
        return []

    def declared(self, columns: Sequence[str]) -> Sequence[str]:
        """Classes that the data's columns name, whether a picture has them or not."""
        return ()

    def labels(self, truths: Sequence[Truth], declared: Sequence[str]) -> tuple[str, ...]:
        """The labels of the model, in natural order: 2 before 10."""
        found = {label for truth in truths for label in self.classes(truth)} | set(declared)
        return tuple(sorted(found, key=natural))

    def question(self, truths: Sequence[Truth], declared: Sequence[str]) -> TaskSpec:
        """What a model is asked that learns from these. Raises SpecError."""
        question = TaskSpec(task=self.name, labels=self.labels(truths, declared), thresholds=self.config.thresholds)
        task_for(question)
        return question

    def stratum(self, truth: Truth, counts: Mapping[str, int]) -> str:
        """What a split keeps in proportion: the rarest class of a picture."""
        return min(self.classes(truth), key=lambda label: (counts[label], label), default="")

    def content(self, truth: Truth) -> bytes:
        """What goes into the data's fingerprint."""
        return repr(truth).encode()

    def prepare(self, truths: Sequence[Truth]) -> None:  # noqa: B027 - most tasks need not
        """Look at all truths of a data set before any of them is used: what one means may depend on the others."""

    def problem(self, truth: Truth, size: tuple[int, int], question: TaskSpec) -> str | None:
        """What is wrong with the truth of a picture of this width and height; None when nothing is."""
        return None

    def validate_splits(self, truths: Mapping[str, Sequence[Truth]], question: TaskSpec, least: int) -> list[str]:
        """What keeps these parts from being trained on; a class must have `least` pictures in train."""
        counts = Counter(label for truth in truths["train"] for label in self.classes(truth))
        small = [f"{label} has {counts[label]}" for label in question.labels if 0 < counts[label] < least]
        without = [label for label in question.labels if not counts[label]]
        problems = listed(
            f"classes too small to be split, which takes {least} pictures each; bring more, or leave them out", small
        )
        problems += listed("classes without a picture in train", without)
        for part in ("val", "test"):
            strangers = {label for truth in truths[part] for label in self.classes(truth)} - set(question.labels)
            if strangers:
                names = ", ".join(sorted(strangers, key=natural))
                problems.append(f"{part} has labels that train lacks, to be added there or taken out: {names:.400}")
        return problems

    def unmeasurable(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        """Why the figure that picks the best epoch cannot be measured on these truths of val; None where it can."""
        return None

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """By head's prefix, the figures that a guess without looking at the pictures gets on these truths of val."""
        return {}

    # What training does with it.

    @abstractmethod
    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        """What the loss and the metrics take for a sample: a number, an array, or a mapping of these."""

    @abstractmethod
    def golden_targets(self, targets: Batched) -> Targets:
        """Collated targets as the model room's `Task.quality` takes them."""

    @abstractmethod
    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        """From (logits, collated targets) to the mean loss, a scalar. truths: those of the training part.

        Raises ConfigError for a loss that there is not, or that does not fit.
        """

    @abstractmethod
    def metrics(self, question: TaskSpec, detailed: bool) -> Measures | HeadMeasures:
        """Fresh metrics; detailed: also those by class, and those that keep every answer."""

    @abstractmethod
    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        """How wrong each of N answers is: 0 is right, 1 as wrong as can be."""

    def confusion(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> dict[str, Confusion]:
        """What was taken for what, by head, or under an empty name; nothing where answers are no classes."""
        return {}

    def said(
        self, outputs: Outputs, targets: Targets, question: TaskSpec, samples: Sequence[Sample], seen: Geometry
    ) -> list[str]:
        """The answers to N samples, each in a few words; `seen` is how all of them are shown."""
        task = task_for(question, self.output)
        each = [{name: array[i] for name, array in outputs.items()} for i in range(len(samples))]
        names = [sample.path.name for sample in samples]
        return task.captions([task.answer(output, seen, top=1) for output in each], names)

    def describe_truth(self, truth: Truth) -> str:
        """A truth in a few words."""
        return ", ".join(self.classes(truth)) or "none"

    def _cell(self, row: Row) -> str:
        """What stands in the truth's column, as text. Raises ValueError where there is none."""
        value = row.get(self.truth_column)
        if self.truth_column not in row:
            raise ValueError(f"no column `{self.truth_column}`; the columns are: {', '.join(row)}")
        if value is None or value == "":
            raise ValueError(f"there is no value for {self.truth_column}")
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
        raise ValueError(f"expected text in column {self.truth_column}, got {value!r:.80}")

    def _answers(self, outputs: Mapping[str, Any], question: TaskSpec) -> Any:
        """This task's first output."""
        return outputs[task_for(question, self.output).output]


def natural(label: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10, and never compares a number with a word."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts]
