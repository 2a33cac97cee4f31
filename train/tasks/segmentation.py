"""Segmentation: Dice and cross-entropy on masks; IoU and Dice of the foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import ClasswiseWrapper, Metric
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from model.errors import ConfigError
from model.mask_fitting import fit_mask
from model.preprocess import ImageArray, ImageError, Preprocess
from model.runners.base import Outputs
from model.spec import TaskSpec
from model.tasks import task_for
from model.tasks.base import Targets
from model.tasks.segmentation import IGNORED, foreground_iou
from train.losses import SEGMENTATION, balanced_weights, weighted_sum
from train.mask_values import IGNORE, Meaning, in_words
from train.masks import (
    BLACK_AND_WHITE,
    MaskValueError,
    class_meaning,
    class_numbers,
    mask_content,
    two_class_meaning,
)
from train.samples import MASK, Row, Truth
from train.sections import HeadConfig
from train.tasks.base import Batched, TrainingTask
from train.tasks.by_class import ByClass, MeanByClass, of_numbers
from train.tasks.confusion import Confusion, crossed
from train.tasks.measures import Measures

BINARY = ("background", "foreground")


class SegmentationTraining(TrainingTask):
    """Truths are the paths of masks; labels are counted from the background, 0."""

    name = "segmentation"
    monitor = "iou"
    column = MASK
    usual_loss = "dice"
    dense = True

    def __init__(self, config: HeadConfig, output: str | None = None, named: Sequence[str] | None = None) -> None:
        super().__init__(config, output, named)
        self._labels = tuple(named or BINARY)
        self._meaning = BLACK_AND_WHITE if len(self._labels) == 2 else class_meaning(len(self._labels))
        self._ambiguous: str | None = None
        self._unknown: set[tuple[int, bool]] = set()
        self._classes: dict[Path, frozenset[int]] = {}

    def map_values(self, meaning: Meaning) -> None:
        """Take the classes of masks from the configuration. Raises ConfigError when its labels are others."""
        if self.named is None:
            self._labels = meaning.labels
        if set(self._labels) != set(meaning.labels):
            raise ConfigError(
                f"data.mask_values: names {', '.join(meaning.labels)}, the labels are {', '.join(self._labels)}; "
                f"name each of them, and {IGNORE} for what is not judged"
            )
        self._meaning = meaning

    def truth(self, row: Row) -> Truth:
        value = row.get(self.truth_column)
        return value if isinstance(value, Path) else Path(self._cell(row))

    def row(self, truth: Truth, question: TaskSpec) -> dict[str, str]:
        return {self.truth_column: str(truth.absolute())}

    def classes(self, truth: Truth) -> Sequence[str]:
        return ()

    def question(self, truths: Sequence[Truth], declared: Sequence[str]) -> TaskSpec:
        question = TaskSpec(task=self.name, labels=self._labels, thresholds=self.config.thresholds)
        task_for(question)
        return question

    def prepare(self, truths: Sequence[Truth]) -> None:
        if len(self._labels) == 2 and not self._meaning.configured:
            self._meaning, self._ambiguous = two_class_meaning(truths)

    def content(self, truth: Truth) -> bytes:
        return mask_content(truth)

    def problem(self, truth: Truth, size: tuple[int, int], question: TaskSpec) -> str | None:
        try:
            mask = self._mask(truth)
        except ImageError as error:
            if isinstance(error, MaskValueError):
                self._unknown |= {(value, error.colour) for value in error.values}
            return f"mask {truth}: {error}"
        self._classes[truth] = frozenset(np.unique(mask).tolist())
        height, width = mask.shape
        if (width, height) != size:
            return f"mask {truth}: is {width} x {height}, expected its picture's {size[0]} x {size[1]}"
        return None

    def validate_splits(self, truths: Mapping[str, Sequence[Truth]], question: TaskSpec, least: int) -> list[str]:
        problems = [self._ambiguous] if self._ambiguous else []
        if self._unknown:
            return [*problems, f"say what the values in masks mean: {self._example()}"]
        count = len(truths["train"])
        if count < least:
            problems.append(f"{count} pictures are too few to be split")
        found = set().union(*(self._classes.get(truth, frozenset()) for truth in truths["train"]))
        # Where each pixel is of one of several classes, there may be no background.
        least_class = 0 if len(question.labels) == 2 else 1
        without = [label for n, label in enumerate(question.labels) if n >= least_class and n not in found]
        if without and not self._ambiguous:
            problems.append(f"no mask of train has a pixel of {', '.join(without)}, so that nothing could be learned")
        return problems

    def _example(self) -> str:
        """How to map the values that were found, as far as can be guessed."""
        colour = any(colour for _, colour in self._unknown)
        values = sorted(value for value, each in self._unknown if each == colour)
        background, first = self._labels[0], self._labels[1]
        zero = in_words([0], colour)
        if len(self._labels) > 2:
            others = [value for value in values if value >= len(self._labels)]
            pairs = zip(self._labels, [0, *others], strict=False)
            named = ", ".join(f"{label}: {in_words([value], colour)}" for label, value in pairs)
            return f"data.labels names the classes, from 0; for other values data.mask_values: {{{named}, …}}"
        rest = [value for value in values if value and (colour or value != IGNORED or len(values) == 2)]
        mapped = in_words(rest, colour) if len(rest) == 1 else "nonzero"
        soft = ""
        if len(values) > 8 and not colour and IGNORED in values:
            soft = f" (or {{{background}: 0-127, {first}: 128-255}} where edges are soft)"
        return f"data.mask_values: {{{background}: {zero}, {first}: {mapped}}}{soft}"

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """All background."""
        return {"": {"iou": 0.0}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: TaskSpec) -> Any:
        return fit_mask(self._mask(truth), preprocess, fill=IGNORED)

    def _mask(self, truth: Truth) -> ImageArray:
        return class_numbers(truth, self._meaning, self._labels if self._meaning.configured else ())

    def golden_targets(self, targets: Batched) -> Targets:
        return {"mask": targets.numpy()}

    def loss(self, question: TaskSpec, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            masks = (self._mask(truth) for truth in truths)
            counts = sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, np.int64))
            return balanced_weights(dict(zip(question.labels, counts.tolist(), strict=False)), question.labels)

        return weighted_sum(self.config.loss, self.usual_loss, SEGMENTATION, question, balanced)

    def metrics(self, question: TaskSpec, detailed: bool) -> Measures:
        count, labels = len(question.labels), list(question.labels)
        classes = (count, of_numbers(count))
        how: Any = {"average": "none", "ignore_index": IGNORED}
        iou, dice = MulticlassJaccardIndex(count, **how), MulticlassF1Score(count, multidim_average="global", **how)
        metrics: dict[str, Metric] = {
            "iou": MeanByClass(iou, *classes, first=1),
            "dice": MeanByClass(dice, *classes, first=1),  # which is F1 over pixels
        }
        if detailed and count > 2:
            by_class = ByClass(MulticlassJaccardIndex(count, **how), *classes)
            metrics["iou_by_class"] = ClasswiseWrapper(by_class, labels, prefix="iou/")
        return Measures(metrics, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: Batched) -> None:
        metric.update(outputs["mask"].long(), targets.long())

    def error_score(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> NDArray[np.float64]:
        masks, truths = outputs["mask"], targets["mask"]
        return np.array([1 - foreground_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)])

    def confusion(self, outputs: Outputs, targets: Targets, question: TaskSpec) -> dict[str, Confusion]:
        judged = targets["mask"] != IGNORED
        return crossed(targets["mask"][judged], outputs["mask"][judged], question.labels, "pixels")

    def describe_truth(self, truth: Truth) -> str:
        return f"mask {truth.name}"
