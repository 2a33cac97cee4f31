"""Multiclass: exactly one of C labels. Output `probabilities` FP32 [C], summing to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import SpecError
from model.runners.base import Outputs
from model.spec import TensorSpec
from model.tasks.base import Answer, Task

TIE = 1e-3
"""Two classes whose probabilities differ by less than this are equally good answers."""


class Multiclass(Task):
    """One label a picture."""

    name = "multiclass"

    def outputs(self, labels: Sequence[str]) -> tuple[TensorSpec, ...]:
        if len(labels) < 2:
            raise SpecError(f"multiclass needs at least two labels, got {len(labels)}")
        return (TensorSpec(name="probabilities", dtype="FP32", shape=(len(labels),)),)

    def decisions_kept(self, expected: Outputs, actual: Outputs) -> NDArray[np.bool_]:
        reference, chosen = expected["probabilities"], actual["probabilities"].argmax(axis=1)
        given = np.take_along_axis(reference, chosen[:, None], axis=1)[:, 0]
        kept: NDArray[np.bool_] = given >= reference.max(axis=1) - TIE
        return kept

    def quality(self, outputs: Outputs, targets: NDArray[np.int64]) -> dict[str, float]:
        return {"accuracy": float((outputs["probabilities"].argmax(axis=1) == targets).mean())}

    def answer(self, output: Mapping[str, NDArray[Any]], labels: Sequence[str], top: int) -> Answer:
        probabilities = output["probabilities"]
        best = np.argsort(-probabilities, kind="stable")[: max(1, top)]
        ranking = [{"label": labels[i], "probability": round(float(probabilities[i]), 6)} for i in best]
        return {**ranking[0], "top": ranking}

    def caption(self, answer: Answer) -> str:
        return self.cells(answer)[0]

    def cells(self, answer: Answer) -> list[str]:
        return [f"{ranked['label']} {ranked['probability']:.2f}" for ranked in answer["top"]]
