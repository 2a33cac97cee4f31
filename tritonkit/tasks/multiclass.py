"""Multiclass: exactly one of C labels. Output `probabilities` FP32 [C], summing to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs
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

SUM_TOLERANCE = 1e-2
"""Rounding error of a sum over a thousand classes in half precision."""


class Multiclass(Task):
    """Predicts one label for each image."""

    name = "multiclass"
    output_name = "probabilities"
    floors = {"top1": 1.0}
    layer = "Softmax"
    min_labels = 2

    def faults(self, outputs: Outputs) -> list[str]:
        sums = outputs[self.output].sum(axis=1, dtype=np.float64)
        worst = float(np.abs(sums - 1).max())
        if worst > SUM_TOLERANCE:
            return [f"{self.output} do not sum to 1 (off by {worst:.2g})"]
        return outside_range(self.output, outputs[self.output], "the softmax is missing")

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        reference, chosen = expected[self.output], actual[self.output].argmax(axis=1)
        chosen_probability = np.take_along_axis(reference, chosen[:, None], axis=1)[:, 0]
        best = reference.max(axis=1)
        # If all probabilities are small, the full tie tolerance would accept any class.
        return {"top1": (chosen_probability >= best - np.minimum(tie, best / 4)).astype(np.float64)}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        return {"accuracy": float((outputs[self.output].argmax(axis=1) == targets[self.output]).mean())}

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        """Summarize by the probabilities of all labels and the highest one, and by the most probable label."""
        probabilities = outputs[self.output].astype(np.float32)
        values = np.column_stack([probabilities, probabilities.max(axis=1)]).round(2).astype(np.float16)
        chosen = probabilities.argmax(axis=1)[:, None] == np.arange(len(self.labels))
        return {self.output: OutputSummary(values, (*self.labels, "highest probability"), chosen)}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        ranking = top_labels(output[self.output], self.labels, top)
        return Answer({**ranking[0], "top": ranking})

    def decisions(self, fields: Mapping[str, Any]) -> dict[str, str]:
        return {"label": fields["label"]}

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        return [f"{entry['label']} {entry['probability']:.2f}" for entry in fields["top"]]


def top_labels(probabilities: NDArray[Any], labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` most probable labels as JSON objects, best first."""
    best = np.argsort(-probabilities, kind="stable")[: max(1, top)]
    return [{"label": labels[i], "probability": round(float(probabilities[i]), 6)} for i in best]
