"""Heads: several questions to one backbone, each answered by an output that has the head's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.errors import SpecError
from model.preprocess import Geometry
from model.runners.base import Outputs
from model.spec import TaskSpec, TensorSpec
from model.tasks.base import TIE, Agreement, Answer, Targets, Task

if TYPE_CHECKING:
    from torch import nn

RESERVED_NAMES = {"path", "error", "image"}
"""Names that rows of results and the model's input have."""


class Heads(Task):
    """Each head is a task of its own; this one joins what they say, under their names."""

    name = "heads"
    output_name = ""
    floors = {}

    def __init__(self, question: TaskSpec, heads: Mapping[str, Task]) -> None:
        super().__init__(question)
        self.heads = dict(heads)
        if not heads:
            raise SpecError("heads needs at least one head")
        for name, task in heads.items():
            if task.dense or isinstance(task, Heads):
                raise SpecError(f"head {name}: {task.name} cannot share a backbone with other heads")
            if "." in name:
                raise SpecError(f"head {name}: a dot stands between a head and its metric; choose another name")
            if name in RESERVED_NAMES:
                raise SpecError(f"head {name}: the name means something else in results; choose another")

    @property
    def channels(self) -> int:
        """0: the backbone gives features, which each head turns into values of its own."""
        return 0

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        return tuple(output for task in self.heads.values() for output in task.outputs(image))

    def last_layer(self) -> nn.Module:
        from model.layers import MultiHead

        return MultiHead({name: task.last_layer() for name, task in self.heads.items()})

    def layout_problems(self, outputs: Outputs) -> list[str]:
        return [problem for task in self.heads.values() for problem in task.layout_problems(outputs)]

    def faults(self, outputs: Outputs) -> list[str]:
        return [fault for task in self.heads.values() for fault in task.faults(outputs)]

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Sequence[Geometry] | None = None, tie: float = TIE
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

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        answers = {name: task.answer(output, geometry, top) for name, task in self.heads.items()}
        embeddings = [answer.embedding for answer in answers.values() if answer.embedding is not None]
        return Answer(
            {name: answer.fields for name, answer in answers.items()},
            embedding=np.concatenate(embeddings) if embeddings else None,
        )

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        return [f"{name}: {task.cells(fields[name])[0]}" for name, task in self.heads.items()]

    def captions(self, answers: Sequence[Answer], names: Sequence[str]) -> list[str]:
        each = [
            task.captions([Answer(answer.fields[name]) for answer in answers], names)
            for name, task in self.heads.items()
        ]
        return [
            " · ".join(f"{name}: {said}" for name, said in zip(self.heads, texts, strict=True))
            for texts in zip(*each, strict=True)
        ]

    def with_threshold(self, threshold: float) -> Task:
        """Replaces those of the heads that have one."""
        if not any(task.thresholded for task in self.heads.values()):
            raise SpecError(f"none of the heads {', '.join(self.heads)} has a threshold to be replaced")
        changed = {n: t.with_threshold(threshold) if t.thresholded else t for n, t in self.heads.items()}
        return Heads(self.question, changed)

    def _floor(self, measure: str) -> float:
        name, _, inner = measure.rpartition(".")
        return self.heads[name].floors[inner]
