"""Segmentation: a class for each pixel. Output `mask` UINT8 [H, W]; `probability` FP32 [H, W] on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import Outputs, TaskSpec, TensorSpec
from tritonkit.tasks.base import (
    TIE_TOLERANCE,
    Agreement,
    Answer,
    Geometries,
    OutputSummary,
    Targets,
    Task,
    outside_range,
    positions,
)

if TYPE_CHECKING:
    from torch import nn

MAX_LABELS = 255
IGNORED = 255
"""Pixels of a ground truth mask with this value are ignored, as in Pascal VOC and Cityscapes."""
TOLERATED_PIXELS = 2
"""Number of pixels that may differ between equal masks: border pixels are uncertain even in small masks."""


class Segmentation(Task):
    """Predicts a class for each pixel; 0 is the background. With two labels, the threshold of the second decides."""

    name = "segmentation"
    output_name = "mask"
    floors = {"iou": 0.99}
    dense = True
    thresholded = True
    min_labels = 2

    def __init__(self, task_spec: TaskSpec, output: str | None = None) -> None:
        super().__init__(task_spec, output)
        if len(self.labels) > MAX_LABELS:
            raise SpecError(
                f"segmentation: a mask can hold at most {MAX_LABELS} labels, got {len(self.labels)}",
                code="spec.too_many_labels",
            )
        if task_spec.probability and len(self.labels) > 2:
            raise SpecError(
                f"segmentation: the probability output needs exactly 2 labels, got {len(self.labels)}",
                code="spec.probability_labels",
            )

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        mask = TensorSpec(name=self.output, dtype="UINT8", shape=image.shape[:2])
        if not self.task_spec.probability:
            return (mask,)
        return mask, TensorSpec(name="probability", dtype="FP32", shape=image.shape[:2])

    def layout_problems(self, outputs: Outputs) -> list[str]:
        if self.task_spec.probability and "probability" not in outputs:
            return [f"output probability is missing; the model returns {', '.join(outputs)}"]
        return super().layout_problems(outputs)

    def joint(self, other: Task) -> Task:
        """Join the labels by their names; class 0 is the background of both, whatever its name."""
        self._check_same_task(other)
        if self.labels == other.labels:
            return self
        labels = tuple(dict.fromkeys((*self.labels, *other.labels[1:])))
        task_spec = self.task_spec.model_copy(update={"labels": labels, "thresholds": {}, "probability": False})
        return Segmentation(task_spec, self.output)

    def relabel(self, outputs: Outputs, joint: Task) -> Outputs:
        """Return the mask with the class numbers of the joint task; without the probability if they differ."""
        if self.labels == joint.labels:
            return outputs
        numbers = np.array([0, *positions(self.labels[1:], joint.labels)], dtype=np.uint8)
        return {self.output: numbers[outputs[self.output]]}

    def last_layer(self) -> nn.Module:
        from tritonkit.tasks.layers import Mask

        threshold = self.task_spec.threshold(self.labels[1]) if len(self.labels) == 2 else None
        return Mask(threshold, self.task_spec.probability)

    def faults(self, outputs: Outputs) -> list[str]:
        highest = int(outputs[self.output].max())
        if highest >= len(self.labels):
            return [f"{self.output} contains the class {highest}, but the model has {len(self.labels)} labels"]
        if not self.task_spec.probability:
            return []
        return outside_range("probability", outputs["probability"], "the sigmoid is missing")

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Geometries = None, tie: float = TIE_TOLERANCE
    ) -> Agreement:
        """Return the mean IoU of the labels in either mask, at the original image size if the geometry is known."""
        fitted: Sequence[Geometry | None] = geometries or [None] * len(expected[self.output])
        pairs = zip(expected[self.output], actual[self.output], fitted, strict=True)
        return {"iou": np.array([self._mask_agreement(first, second, geometry) for first, second, geometry in pairs])}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        masks, truths = outputs[self.output], targets[self.output]
        return {"foreground_iou": float(np.mean([foreground_iou(m, t) for m, t in zip(masks, truths, strict=True)]))}

    def summarize(self, outputs: Outputs) -> dict[str, OutputSummary]:
        """Summarize by the share of pixels of each label and the mean probability, and by the labels in the mask."""
        masks, count = outputs[self.output], len(self.labels)
        pixels = np.stack([np.bincount(mask.ravel(), minlength=count)[:count] for mask in masks])
        columns, values = [*self.labels], [pixels / masks[0].size]
        if self.task_spec.probability:
            columns.append("mean probability")
            values.append(outputs["probability"].mean(axis=(1, 2), dtype=np.float64)[:, None])
        summary = np.concatenate(values, axis=1).round(3).astype(np.float16)
        return {self.output: OutputSummary(summary, tuple(columns), pixels > TOLERATED_PIXELS)}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        fitted = output[self.output]
        if self.task_spec.probability:  # with_threshold may have replaced the threshold of the mask
            fitted = (output["probability"] >= self.task_spec.threshold(self.labels[1])).astype(np.uint8)
        mask = geometry.mask_to_source(fitted)
        # Row by row: numpy would convert a whole mask to 64-bit numbers first.
        counts = sum((np.bincount(row, minlength=256) for row in mask), np.zeros(256, np.intp))
        order = [number for number in np.argsort(-counts, kind="stable") if number > 0 and counts[number]]
        shares = [{"label": self.labels[i], "share": round(float(counts[i] / mask.size), 6)} for i in order[:top]]
        return Answer({"size": [mask.shape[1], mask.shape[0]], "regions": shares}, mask=mask)

    def cells(self, fields: Mapping[str, Any]) -> list[str]:
        return [f"{region['label']} {region['share']:.0%}" for region in fields["regions"]] or [
            f"{self.labels[0]} only"
        ]

    def with_threshold(self, threshold: float) -> Task:
        if len(self.labels) > 2:
            raise SpecError(
                f"{self.name} with {len(self.labels)} labels uses the most probable class, without a threshold",
                code="spec.no_threshold",
            )
        if not self.task_spec.probability:
            raise SpecError(
                f"{self.name}: the threshold is part of this model's graph, which returns only the mask. Export it "
                "with another threshold (`builder export --threshold`) or with `builder export --probability`",
                code="spec.threshold_in_graph",
            )
        return super().with_threshold(threshold)

    def _mask_agreement(
        self, expected: NDArray[np.uint8], actual: NDArray[np.uint8], geometry: Geometry | None
    ) -> float:
        # Counted at the model's size: one of its pixels may cover hundreds in the original image.
        if np.count_nonzero(expected != actual) <= TOLERATED_PIXELS:
            return 1.0
        if geometry is not None:
            expected, actual = geometry.mask_to_source(expected), geometry.mask_to_source(actual)
        present = [n for n in range(len(self.labels)) if (expected == n).any() or (actual == n).any()]
        return float(np.mean([_iou(expected == n, actual == n) for n in present]))


def foreground_iou(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the IoU of correct foreground pixels without ignored pixels; 1 if both masks have no foreground."""
    counted = truth != IGNORED
    either = ((mask > 0) | (truth > 0)) & counted
    correct = (mask == truth) & (mask > 0) & counted
    return float(correct.sum() / either.sum()) if either.any() else 1.0


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 1.0
