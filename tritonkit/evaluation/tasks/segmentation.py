"""Segmentation: IoU and Dice of the foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from tritonkit.errors import ConfigError, Problem
from tritonkit.evaluation.config import TaskConfig
from tritonkit.evaluation.samples.mask_values import BINARY, IGNORE, MaskMapping, format_values
from tritonkit.evaluation.samples.masks import (
    BLACK_AND_WHITE,
    MaskError,
    class_number_mapping,
    class_numbers,
    fit_mask,
    mask_content,
    two_class_mapping,
)
from tritonkit.evaluation.samples.sample import MASK, Row, Truth
from tritonkit.evaluation.tasks.base import BatchTargets, EvaluationTask
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix, confusion_matrix
from tritonkit.evaluation.tasks.metrics import Measures, PerClassMean, PerClassMetric, count_class_numbers
from tritonkit.images.preprocess import ImageArray, ImageError, Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.base import Targets
from tritonkit.tasks.segmentation import IGNORED, foreground_iou


class SegmentationEvaluation(EvaluationTask):
    """Segmentation. A truth is the path of a mask; class numbers start at the background, 0."""

    name = "segmentation"
    monitor = "iou"
    column = MASK
    dense = True

    def __init__(self, config: TaskConfig, output: str | None = None, label_names: Sequence[str] | None = None) -> None:
        super().__init__(config, output, label_names)
        self._labels = tuple(label_names or BINARY)
        self._mapping = BLACK_AND_WHITE if len(self._labels) == 2 else class_number_mapping(len(self._labels))
        self._ambiguity: Problem | None = None
        self._unknown_values: set[tuple[int, bool]] = set()
        self._classes: dict[Path, frozenset[int]] = {}

    def map_values(self, mapping: MaskMapping) -> None:
        """Use the configuration's mask values. Raises ConfigError if its classes differ from the labels."""
        if self.label_names is None:
            self._labels = mapping.labels
        if set(self._labels) != set(mapping.labels):
            raise ConfigError(
                f"data.mask_values: lists {', '.join(mapping.labels)}, but the labels are {', '.join(self._labels)}; "
                f"list each label, and {IGNORE} for pixels to ignore",
                code="config.mask_values_labels",
            )
        self._mapping = mapping

    def truth(self, row: Row) -> Truth:
        value = row.get(self.truth_column)
        return value if isinstance(value, Path) else Path(self._cell(row))

    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        return {self.truth_column: str(truth.absolute())}

    def classes(self, truth: Truth) -> Sequence[str]:
        return ()

    def task_spec(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> TaskSpec:
        task_spec = TaskSpec(task=self.name, labels=self._labels, thresholds=self.config.thresholds)
        task_for(task_spec)
        return task_spec

    def prepare(self, truths: Sequence[Truth]) -> None:
        if len(self._labels) == 2 and not self._mapping.configured:
            self._mapping, self._ambiguity = two_class_mapping(truths)

    def fingerprint_bytes(self, truth: Truth) -> bytes:
        return mask_content(truth)

    def truth_problem(self, truth: Truth, size: tuple[int, int], task_spec: TaskSpec) -> Problem | None:
        try:
            mask = self.read_mask(truth)
        except MaskError as error:
            self._unknown_values |= {(value, error.colour) for value in error.values}
            return Problem(error.code, f"mask {truth}: {error}")
        except ImageError as error:
            return Problem("data.mask_unreadable", f"mask {truth}: {error}")
        self._classes[truth] = frozenset(np.unique(mask).tolist())
        height, width = mask.shape
        if (width, height) != size:
            text = f"mask {truth}: is {width} x {height}, expected the size of its image, {size[0]} x {size[1]}"
            return Problem("data.mask_size", text)
        return None

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        problems = [self._ambiguity] if self._ambiguity else []
        if self._unknown_values:
            text = f"define the meaning of the values in masks: {self._example_mask_values()}"
            return [*problems, Problem("data.mask_values_undefined", text)]
        count = len(truths["train"])
        if count < minimum:
            problems.append(Problem("data.too_few_images", f"{count} images are too few to be split"))
        present = set().union(*(self._classes.get(truth, frozenset()) for truth in truths["train"]))
        # With several classes, the masks may have no background.
        first_class = 0 if len(task_spec.labels) == 2 else 1
        without = [label for n, label in enumerate(task_spec.labels) if n >= first_class and n not in present]
        if without and not self._ambiguity:
            text = f"no mask of train has a pixel of {', '.join(without)}, so that nothing can be learned"
            problems.append(Problem("data.class_without_pixels", text))
        return problems

    def _example_mask_values(self) -> str:
        """Suggest data.mask_values for the unknown values."""
        colour = any(colour for _, colour in self._unknown_values)
        values = sorted(value for value, each in self._unknown_values if each == colour)
        background, first = self._labels[0], self._labels[1]
        zero = format_values([0], colour)
        if len(self._labels) > 2:
            others = [value for value in values if value >= len(self._labels)]
            pairs = zip(self._labels, [0, *others], strict=False)
            listing = ", ".join(f"{label}: {format_values([value], colour)}" for label, value in pairs)
            return f"data.labels lists the classes from 0; for other values set data.mask_values: {{{listing}, …}}"
        rest = [value for value in values if value and (colour or value != IGNORED or len(values) == 2)]
        mapped = format_values(rest, colour) if len(rest) == 1 else "nonzero"
        soft = ""
        if len(values) > 8 and not colour and IGNORED in values:
            soft = f" (or {{{background}: 0-127, {first}: 128-255}} if edges are soft)"
        return f"data.mask_values: {{{background}: {zero}, {first}: {mapped}}}{soft}"

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """The IoU of a mask that is all background."""
        return {"": {"iou": 0.0}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return fit_mask(self.read_mask(truth), preprocess, fill=IGNORED)

    def read_mask(self, truth: Truth) -> ImageArray:
        """Read a mask as class numbers, uint8 [H, W]. Raises ImageError."""
        return class_numbers(truth, self._mapping, self._labels if self._mapping.configured else ())

    def golden_targets(self, targets: BatchTargets) -> Targets:
        """Return a batch of masks, already loaded, as NumPy arrays under the output's name."""
        return {"mask": targets.numpy()}

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures:
        count, labels = len(task_spec.labels), list(task_spec.labels)
        classes = (count, count_class_numbers(count))
        options: Any = {"average": "none", "ignore_index": IGNORED}
        iou, dice = (
            MulticlassJaccardIndex(count, **options),
            MulticlassF1Score(count, multidim_average="global", **options),
        )
        metrics: dict[str, Metric] = {
            "iou": PerClassMean(iou, *classes, first=1),
            "dice": PerClassMean(dice, *classes, first=1),  # Dice is F1 over pixels
        }
        if detailed and count > 2:
            by_class = PerClassMetric(MulticlassJaccardIndex(count, **options), *classes)
            metrics["iou_by_class"] = ClasswiseWrapper(by_class, labels, prefix="iou/")
        return Measures(metrics, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: BatchTargets) -> None:
        metric.update(outputs["mask"].long(), targets.long())

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        masks, truths = outputs["mask"], targets["mask"]
        return np.array([1 - foreground_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)])

    def confusion(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> dict[str, ConfusionMatrix]:
        counted = targets["mask"] != IGNORED
        return confusion_matrix(targets["mask"][counted], outputs["mask"][counted], task_spec.labels, "pixels")

    def describe_truth(self, truth: Truth) -> str:
        return f"mask {truth.name}"
