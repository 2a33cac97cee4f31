"""Heads: each head's truths, loss and metrics under its name; the losses are added up with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from model.preprocess import Geometry, Preprocess
from model.runners.base import Outputs
from model.spec import TaskSpec
from model.tasks import task_for
from model.tasks.base import Targets
from train.losses import add_up
from train.samples import Row, Sample, Truth
from train.sections import HeadConfig
from train.tasks.base import Batched, TrainingTask
from train.tasks.confusion import Confusion
from train.tasks.measures import HeadMeasures


class HeadsTraining(TrainingTask):
    """Truths are mappings from the heads' names to theirs."""

    name = "heads"
    monitor = "mean"
    column = ""
    usual_loss = ""

    def __init__(self, config: HeadConfig, heads: Mapping[str, TrainingTask], weights: Mapping[str, float]) -> None:
        super().__init__(config)
        self.heads, self.weights = dict(heads), dict(weights)
        self.has_val_loss = all(task.has_val_loss for task in heads.values())
        self.compares = any(task.compares for task in heads.values())

    def truth(self, row: Row) -> Truth:
        return {name: task.truth(row) for name, task in self.heads.items()}

    @property
    def label_columns(self) -> Sequence[str]:
        return [column for task in self.heads.values() for column in task.label_columns]

    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
        return {
            column: cell
            for name, task in self.heads.items()
            for column, cell in task.row(truth[name], question.heads[name]).items()
        }

    def classes(self, truth: Truth) -> Sequence[str]:
        return [f"{name}={label}" for name, task in self.heads.items() for label in task.classes(truth[name])]

    def question(self, truths: Sequence[Truth], declared: Sequence[str]) -> TaskSpec:
        heads = {name: task.question([truth[name] for truth in truths], ()) for name, task in self.heads.items()}
        question = TaskSpec(task=self.name, heads=heads)
        task_for(question)
        return question

    def validate_splits(self, truths: Mapping[str, Sequence[Truth]], question: TaskSpec, least: int) -> list[str]:
        return [
            f"head {name}: {problem}"
            for name, task in self.heads.items()
            for problem in task.validate_splits(
                {part: [truth[name] for truth in each] for part, each in truths.items()}, question.heads[name], least
            )
        ]

    def prepare(self, truths: Sequence[Truth]) -> None:
        for name, task in self.heads.items():
            task.prepare([truth[name] for truth in truths])

    def unmeasurable(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        for name, task in self.heads.items():
            if why := task.unmeasurable([truth[name] for truth in truths], [truth[name] for truth in gallery]):
                return f"head {name}: {why}"
        return None

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        return {
            f"{name}.": figures
            for name, task in self.heads.items()
            for figures in task.guesses([truth[name] for truth in truths]).values()
        }

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        return {
            name: task.target(truth[name], gallery, preprocess, question.heads[name])
            for name, task in self.heads.items()
        }

    def golden_targets(self, targets: Batched) -> Targets:
        return {k: v for name, task in self.heads.items() for k, v in task.golden_targets(targets[name]).items()}

    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        losses = {
            name: task.loss(question.heads[name], [truth[name] for truth in truths])
            for name, task in self.heads.items()
        }
        return _Sum(losses, self.weights)

    def metrics(self, question: TaskSpec, detailed: bool) -> HeadMeasures:
        measures = {name: task.metrics(question.heads[name], detailed) for name, task in self.heads.items()}
        return HeadMeasures(measures, {name: task.monitor for name, task in self.heads.items()})

    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        each = [task.error_score(outputs, targets, question.heads[name]) for name, task in self.heads.items()]
        worst: NDArray[np.float64] = np.max(each, axis=0)
        return worst

    def confusion(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> dict[str, Confusion]:
        return {
            name: confusion
            for name, task in self.heads.items()
            for confusion in task.confusion(outputs, targets, question.heads[name]).values()
        }

    def said(
        self, outputs: Outputs, targets: Targets, question: TaskSpec, samples: Sequence[Sample], seen: Geometry
    ) -> list[str]:
        each = [
            task.said(outputs, targets, question.heads[name], [replace(s, truth=s.truth[name]) for s in samples], seen)
            for name, task in self.heads.items()
        ]
        return [
            " · ".join(f"{name}: {said}" for name, said in zip(self.heads, texts, strict=True))
            for texts in zip(*each, strict=True)
        ]

    def describe_truth(self, truth: Truth) -> str:
        return " · ".join(f"{name}: {task.describe_truth(truth[name])}" for name, task in self.heads.items())


class _Sum(nn.Module):
    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.names, self.losses = tuple(losses), nn.ModuleList(losses.values())
        self.weights = dict(weights)

    def forward(self, logits: Mapping[str, Tensor], targets: Batched) -> Tensor:
        """The weighted sum of the heads' losses."""
        each = zip(self.names, self.losses, strict=True)
        parts = [self.weights[name] * loss(logits[name], targets[name]) for name, loss in each]
        return add_up(parts)
