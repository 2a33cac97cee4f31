"""Models with several heads: each head has its own truths and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tritonkit.errors import Problem
from tritonkit.evaluation.config import TaskConfig
from tritonkit.evaluation.samples.sample import Row, Sample, Truth
from tritonkit.evaluation.tasks.augmentation import AugmentationEvaluation
from tritonkit.evaluation.tasks.base import BatchTargets, EvaluationTask, Infer
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix
from tritonkit.evaluation.tasks.metrics import HeadMeasures
from tritonkit.images.preprocess import Geometry, Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.base import Targets


class HeadsEvaluation(EvaluationTask):
    """Several heads. A truth is a mapping from head name to the head's truth."""

    name = "heads"
    monitor = "mean"
    column = ""

    def __init__(self, config: TaskConfig, heads: Mapping[str, EvaluationTask]) -> None:
        super().__init__(config)
        self.heads = dict(heads)
        self.auxiliary = {name: task for name, task in heads.items() if isinstance(task, AugmentationEvaluation)}
        self.main = {name: task for name, task in heads.items() if name not in self.auxiliary}
        """The heads whose truth is in the data."""
        self.compares_samples = any(task.compares_samples for task in heads.values())

    def fingerprint_bytes(self, truth: Truth) -> bytes:
        return super().fingerprint_bytes({name: truth[name] for name in self.main})

    def truth(self, row: Row) -> Truth:
        return {name: task.truth(row) for name, task in self.heads.items()}

    @property
    def label_columns(self) -> Sequence[str]:
        return [column for task in self.heads.values() for column in task.label_columns]

    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        return {
            column: cell
            for name, task in self.heads.items()
            for column, cell in task.row(truth[name], task_spec.heads[name]).items()
        }

    def classes(self, truth: Truth) -> Sequence[str]:
        return [f"{name}={label}" for name, task in self.heads.items() for label in task.classes(truth[name])]

    def task_spec(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> TaskSpec:
        heads = {name: task.task_spec([truth[name] for truth in truths], ()) for name, task in self.heads.items()}
        task_spec = TaskSpec(task=self.name, heads=heads)
        task_for(task_spec)
        return task_spec

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        return [
            Problem(problem.code, f"head {name}: {problem}")
            for name, task in self.heads.items()
            for problem in task.validate_splits(
                {part: [truth[name] for truth in each] for part, each in truths.items()}, task_spec.heads[name], minimum
            )
        ]

    def prepare(self, truths: Sequence[Truth]) -> None:
        for name, task in self.heads.items():
            task.prepare([truth[name] for truth in truths])

    def monitor_problem(self, truths: Sequence[Truth], gallery: Sequence[Truth]) -> str | None:
        for name, task in self.heads.items():
            if problem := task.monitor_problem([truth[name] for truth in truths], [truth[name] for truth in gallery]):
                return f"head {name}: {problem}"
        return None

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        return {
            f"{name}.": metrics
            for name, task in self.heads.items()
            for metrics in task.baseline_metrics([truth[name] for truth in truths]).values()
        }

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return {
            name: task.target(truth[name], gallery, preprocess, task_spec.heads[name])
            for name, task in self.heads.items()
        }

    def answered(
        self, infer: Infer, images: Tensor, targets: BatchTargets, first: int = 0, step: int = 1
    ) -> tuple[Any, BatchTargets]:
        """Let each auxiliary head answer for changed copies of the images, and put their classes into `targets`.

        The targets are changed in place, so that Lightning's callbacks find them in their batch. All images are one
        batch for `infer`, so that batch norms learn from both kinds.
        """
        changed = {name: task.changed(images, first, step) for name, task in self.auxiliary.items()}
        if not changed:
            return infer(images), targets
        together, count = infer(torch.cat([images, *(copies for copies, _ in changed.values())])), len(images)
        starts = {name: number * count for number, name in enumerate(changed, start=1)}
        values = {name: each[starts.get(name, 0) :][:count] for name, each in together.items()}
        targets.update({name: classes for name, (_, classes) in changed.items()})
        return values, targets

    def golden_targets(self, targets: BatchTargets) -> Targets:
        return {k: v for name, task in self.heads.items() for k, v in task.golden_targets(targets[name]).items()}

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> HeadMeasures:
        measures = {name: task.metrics(task_spec.heads[name], detailed) for name, task in self.heads.items()}
        return HeadMeasures(measures, {name: task.monitor for name, task in self.main.items()})

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        """Score the worst of the main heads."""
        each = [task.error_score(outputs, targets, task_spec.heads[name]) for name, task in self.main.items()]
        worst: NDArray[np.float64] = np.max(each, axis=0)
        return worst

    def confusion(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> dict[str, ConfusionMatrix]:
        return {
            name: confusion
            for name, task in self.heads.items()
            for confusion in task.confusion(outputs, targets, task_spec.heads[name]).values()
        }

    def describe_answers(
        self, outputs: Outputs, targets: Targets, task_spec: TaskSpec, samples: Sequence[Sample], geometry: Geometry
    ) -> list[str]:
        each = [
            task.describe_answers(
                outputs, targets, task_spec.heads[name], [replace(s, truth=s.truth[name]) for s in samples], geometry
            )
            for name, task in self.main.items()
        ]
        return [
            " · ".join(f"{name}: {text}" for name, text in zip(self.main, texts, strict=True))
            for texts in zip(*each, strict=True)
        ]

    def describe_truth(self, truth: Truth) -> str:
        return " · ".join(f"{name}: {task.describe_truth(truth[name])}" for name, task in self.main.items())
