"""Segmentation: a class for each pixel. Output `mask` UINT8 [H, W]; `probability` FP32 [H, W] on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.errors import SpecError
from model.preprocess import Geometry
from model.runners.base import Outputs
from model.spec import TaskSpec, TensorSpec
from model.tasks.base import TIE, Agreement, Answer, Targets, Task, outside_range

if TYPE_CHECKING:
    from torch import nn

MAX_LABELS = 255
IGNORED = 255
"""Pixels of a true mask with this value are not judged; the convention of Pascal VOC and Cityscapes."""
TOLERATED_PIXELS = 2
"""So many pixels on a border may fall either way in a mask, however small it is."""


class Segmentation(Task):
    """Labels are numbered from the background, 0. With two labels, the second one's threshold decides."""

    name = "segmentation"
    output_name = "mask"
    floors = {"iou": 0.99}
    dense = True
    thresholded = True

    def __init__(self, question: TaskSpec, output: str | None = None) -> None:
        super().__init__(question, output)
        self._require_labels(2)
        if len(self.labels) > MAX_LABELS:
            raise SpecError(f"segmentation: a mask holds up to {MAX_LABELS} labels, got {len(self.labels)}")
        if question.probability and len(self.labels) > 2:
            raise SpecError(
                f"segmentation: probability is that of one foreground, but there are {len(self.labels)} labels"
            )

    def outputs(self, image: TensorSpec) -> tuple[TensorSpec, ...]:
        mask = TensorSpec(name=self.output, dtype="UINT8", shape=image.shape[:2])
        if not self.question.probability:
            return (mask,)
        return mask, TensorSpec(name="probability", dtype="FP32", shape=image.shape[:2])

    def layout_problems(self, outputs: Outputs) -> list[str]:
        if self.question.probability and "probability" not in outputs:
            return [f"there is no output probability; the model gives {', '.join(outputs)}"]
        return super().layout_problems(outputs)

    def last_layer(self) -> nn.Module:
        from model.layers import Mask

        threshold = self.question.threshold(self.labels[1]) if len(self.labels) == 2 else None
        return Mask(threshold, self.question.probability)

    def faults(self, outputs: Outputs) -> list[str]:
        highest = int(outputs[self.output].max())
        if highest >= len(self.labels):
            return [f"{self.output} holds the class {highest}, but there are {len(self.labels)} labels"]
        if not self.question.probability:
            return []
        return outside_range("probability", outputs["probability"], "the sigmoid is missing")

    def agreement(
        self, expected: Outputs, actual: Outputs, geometries: Sequence[Geometry] | None = None, tie: float = TIE
    ) -> Agreement:
        """Mean IoU of the labels that either mask has; at the picture's own size where the geometry is known."""
        fitted: Sequence[Geometry | None] = geometries or [None] * len(expected[self.output])
        each = zip(expected[self.output], actual[self.output], fitted, strict=True)
        return {"iou": np.array([self._mask_agreement(first, second, how) for first, second, how in each])}

    def quality(self, outputs: Outputs, targets: Targets) -> dict[str, float]:
        masks, truths = outputs[self.output], targets[self.output]
        return {"foreground_iou": float(np.mean([foreground_iou(m, t) for m, t in zip(masks, truths, strict=True)]))}

    def answer(self, output: Mapping[str, NDArray[Any]], geometry: Geometry, top: int) -> Answer:
        mask = geometry.mask_to_source(self._mask(output))
        # Row by row: of a whole mask numpy would make 64-bit numbers first.
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
            raise SpecError(f"{self.name} of {len(self.labels)} labels takes the most probable, without a threshold")
        if not self.question.probability:
            raise SpecError(
                f"{self.name}: the threshold is inside this model's graph, which gives the mask alone. Export "
                "it with another (`builder export --threshold`), or with probabilities (`builder export --probability`)"
            )
        return super().with_threshold(threshold)

    def _mask(self, output: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        if not self.question.probability:
            return output[self.output]
        # Not the graph's own mask: the threshold may have been replaced.
        return (output["probability"] >= self.question.threshold(self.labels[1])).astype(np.uint8)

    def _mask_agreement(
        self, expected: NDArray[np.uint8], actual: NDArray[np.uint8], geometry: Geometry | None
    ) -> float:
        # Counted as the model gives them: one of its pixels may be hundreds of the picture's.
        if np.count_nonzero(expected != actual) <= TOLERATED_PIXELS:
            return 1.0
        if geometry is not None:
            expected, actual = geometry.mask_to_source(expected), geometry.mask_to_source(actual)
        present = [n for n in range(len(self.labels)) if (expected == n).any() or (actual == n).any()]
        return float(np.mean([_iou(expected == n, actual == n) for n in present]))


def foreground_iou(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Intersection over union of right foreground pixels, the ignored ones left out; 1 where both have none."""
    counted = truth != IGNORED
    either = ((mask > 0) | (truth > 0)) & counted
    right = (mask == truth) & (mask > 0) & counted
    return float(right.sum() / either.sum()) if either.any() else 1.0


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 1.0
