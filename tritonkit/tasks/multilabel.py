"""Multilabel: any number of C labels, independent of each other. Output `probabilities` FP32 [C], each in 0..1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks.base import (
    TIE_TOLERANCE,
    Agreement,
    Answer,
    Geometries,
    OutputSummary,
    Targets,
    Task,
    outside_range,
)
from tritonkit.tasks.multiclass import top_labels


class Multilabel(Task):
    """Predicts the labels whose probability reaches their threshold."""

    name = "multilabel"
    output_name = "probabilities"
    floors = {"label_set": 1.0}
    layer = "Sigmoid"
    thresholded = True
    min_labels = 1

    def __init__(self, task_spec: TaskSpec, output: str | None = None) -> None:
        super().__init__(task_spec, output)
        self._thresholds = np.array([task_spec.threshold(label) for label in self.labels])

    def faults(self, outputs: Outputs) -> list[str]:
        return outside_range(self.output, outputs[self.output], "the sigmoid is missing")

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        reference = expected[self.output]
        same = (reference >= self._thresholds) == (actual[self.output] >= self._thresholds)
        is_tie = np.abs(reference - self._thresholds) <= tie
        return {"label_set": (same | is_tie).all(axis=1).astype(np.float64)}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        correct = (outputs[self.output] >= self._thresholds) == (targets[self.output] > 0)
        return {"exact_match": float(correct.all(axis=1).mean())}

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        """Summarize by the probabilities, and by the labels that reach their thresholds."""
        probabilities = outputs[self.output].astype(np.float32)
        above = probabilities >= self._thresholds
        return {self.output: OutputSummary(probabilities.round(2).astype(np.float16), self.labels, above)}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        probabilities = output[self.output]
        above = probabilities >= self._thresholds
        best_first = np.argsort(-probabilities, kind="stable")
        return Answer(
            {
                "labels": [self.labels[i] for i in best_first if above[i]],
                "top": top_labels(probabilities, self.labels, max(top, int(above.sum()))),
            }
        )

    def decisions(self, fields: Mapping[str, Any]) -> dict[str, str]:
        return dict.fromkeys(fields["labels"], "yes")

    def relabel(self, outputs: Outputs, joint: Task) -> Outputs:
        """Shift the probabilities of a label whose threshold differs by the difference, so that decisions stay."""
        placed = super().relabel(outputs, joint)
        before = np.array([self.task_spec.threshold(label) for label in joint.labels])
        after = np.array([joint.task_spec.threshold(label) for label in joint.labels])
        has_label = np.isin(joint.labels, self.labels)
        return {self.output: placed[self.output] + np.where(has_label, after - before, 0).astype(np.float32)}

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        labels = set(fields["labels"])
        texts = [f"{entry['label']} {entry['probability']:.2f}" for entry in fields["top"] if entry["label"] in labels]
        if texts:
            return [", ".join(texts)]
        best = fields["top"][0]
        return [f"none (nearest: {best['label']} {best['probability']:.2f})"]
