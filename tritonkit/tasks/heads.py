"""Heads: several tasks on one backbone. Each head has an output with the name of the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs, TaskSpec, TensorSpec
from tritonkit.tasks.base import TIE_TOLERANCE, Agreement, Answer, Geometries, OutputSummary, Targets, Task

if TYPE_CHECKING:
    from torch import nn

RESERVED_NAMES = {"path", "error", "image"}
"""Names used in result rows or by the model's input."""


class Heads(Task):
    """Joins the tasks of several heads; keys of its results start with the name of the head."""

    name = "heads"
    output_name = ""
    floors = {}

    def __init__(self, task_spec: TaskSpec, heads: Mapping[str, Task]) -> None:
        super().__init__(task_spec)
        self.heads = dict(heads)
        if not heads:
            raise SpecError("heads needs at least one head", code="spec.no_heads")
        for name, task in heads.items():
            if task.dense or isinstance(task, Heads):
                raise SpecError(
                    f"head {name}: {task.name} cannot share a backbone with other heads", code="spec.head_task"
                )
            if "." in name:
                raise SpecError(
                    f"head {name}: a name must not contain a dot; choose another name", code="spec.head_name_dot"
                )
            if name in RESERVED_NAMES:
                raise SpecError(
                    f"head {name}: the name is reserved for result rows; choose another name",
                    code="spec.head_name_reserved",
                )

    @property
    def channels(self) -> int:
        """0: the backbone returns features, and each head computes its own raw values."""
        return 0

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        return tuple(output for task in self.heads.values() for output in task.outputs(image))

    def last_layer(self) -> nn.Module:
        from tritonkit.tasks.layers import MultiHead

        return MultiHead({name: task.last_layer() for name, task in self.heads.items()})

    def layout_problems(self, outputs: Outputs) -> list[str]:
        return [problem for task in self.heads.values() for problem in task.layout_problems(outputs)]

    def faults(self, outputs: Outputs) -> list[str]:
        return [fault for task in self.heads.values() for fault in task.faults(outputs)]

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        return {
            f"{name}.{measure}": values
            for name, task in self.heads.items()
            for measure, values in task.agreement(expected, actual, geometries, tie).items()
        }

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        return {
            f"{name}.{figure}": value
            for name, task in self.heads.items()
            for figure, value in task.quality(outputs, targets).items()
        }

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        return {name: summary for task in self.heads.values() for name, summary in task.summarize(outputs).items()}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        answers = {name: task.answer(output, geometry, top) for name, task in self.heads.items()}
        embeddings = [answer.embedding for answer in answers.values() if answer.embedding is not None]
        return Answer(
            {name: answer.fields for name, answer in answers.items()},
            embedding=np.concatenate(embeddings) if embeddings else None,
        )

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        return [f"{name}: {task.cells(fields[name])[0]}" for name, task in self.heads.items()]

    def decisions(self, fields: Mapping[str, Any]) -> dict[str, str]:
        return {
            f"{name}.{decision}": value
            for name, task in self.heads.items()
            for decision, value in task.decisions(fields[name]).items()
        }

    def joint(self, other: Task) -> Task:
        self._check_same_task(other)
        heads = other.heads if isinstance(other, Heads) else {}
        if self.heads.keys() != heads.keys():
            raise SpecError(
                f"cannot compare a model with the heads {', '.join(self.heads)} with one with the heads "
                f"{', '.join(heads)}",
                code="spec.not_comparable",
            )
        return Heads(self.task_spec, {name: task.joint(heads[name]) for name, task in self.heads.items()})

    def relabel(self, outputs: Outputs, joint: Task) -> Outputs:
        heads = joint.heads if isinstance(joint, Heads) else {}
        return {
            output: values
            for name, task in self.heads.items()
            for output, values in task.relabel({name: outputs[name]}, heads[name]).items()
        }

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        captions_by_head = [
            task.captions([Answer(answer.fields[name]) for answer in answers], names)
            for name, task in self.heads.items()
        ]
        return [
            " · ".join(f"{name}: {caption}" for name, caption in zip(self.heads, captions, strict=True))
            for captions in zip(*captions_by_head, strict=True)
        ]

    def with_threshold(self, threshold: float) -> Task:
        """Replace the thresholds of the heads that have one. Raises SpecError if none has."""
        if not any(task.thresholded for task in self.heads.values()):
            raise SpecError(
                f"none of the heads {', '.join(self.heads)} has a threshold to replace", code="spec.no_threshold"
            )
        changed = {n: t.with_threshold(threshold) if t.thresholded else t for n, t in self.heads.items()}
        return Heads(self.task_spec, changed)

    def _floor(self, measure: str) -> float:
        name, _, inner = measure.rpartition(".")
        return self.heads[name].floors[inner]
