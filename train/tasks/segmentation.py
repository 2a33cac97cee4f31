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

from model.mask_fitting import fit_mask
from model.preprocess import ImageArray, ImageError, Preprocess
from model.runners.base import Outputs
from model.spec import Question
from model.tasks import task_for
from model.tasks.base import Targets
from model.tasks.segmentation import IGNORED, foreground_iou
from train.losses import SEGMENTATION, balanced_weights, weighted_sum
from train.masks import are_numbers, class_numbers, mask_content
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
        self._black_and_white = False

    def truth(self, row: Row) -> Truth:
        value = row.get(self.truth_column)
        return value if isinstance(value, Path) else Path(self._cell(row, "a mask's path"))

    def row(self, truth: Truth, question: Question) -> dict[str, str]:
        return {self.truth_column: str(truth.absolute())}

    def classes(self, truth: Truth) -> Sequence[str]:
        return ()

    def question(self, truths: Sequence[Truth], declared: Sequence[str]) -> Question:
        question = Question(task=self.name, labels=self._labels, thresholds=self.config.thresholds)
        task_for(question)
        return question

    def survey(self, truths: Sequence[Truth]) -> None:
        self._black_and_white = len(self._labels) == 2 and not are_numbers(truths)

    def content(self, truth: Truth) -> bytes:
        return mask_content(truth)

    def problem(self, truth: Truth, size: tuple[int, int], question: Question) -> str | None:
        try:
            mask = self._mask(truth, question)
        except ImageError as error:
            return f"mask {truth}: {error}"
        height, width = mask.shape
        if (width, height) != size:
            return f"mask {truth}: is {width} x {height}, expected its picture's {size[0]} x {size[1]}"
        return None

    def unfit(self, truths: Mapping[str, Sequence[Truth]], question: Question, least: int) -> list[str]:
        count = len(truths["train"])
        return [] if count >= least else [f"{count} pictures are too few to be split"]

    def guesses(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """All background."""
        return {"": {"iou": 0.0}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, question: Question) -> Any:
        return fit_mask(self._mask(truth, question), preprocess, fill=IGNORED)

    def _mask(self, truth: Truth, question: Question) -> ImageArray:
        return class_numbers(truth, len(question.labels), self._black_and_white)

    def golden_targets(self, targets: Batched) -> Targets:
        return {"mask": targets.numpy()}

    def loss(self, question: Question, truths: Sequence[Truth]) -> nn.Module:
        def balanced() -> Mapping[str, float]:
            masks = (self._mask(truth, question) for truth in truths)
            counts = sum((np.bincount(mask.ravel(), minlength=256) for mask in masks), np.zeros(256, np.int64))
            return balanced_weights(dict(zip(question.labels, counts.tolist(), strict=False)), question.labels)

        return weighted_sum(self.config.loss, self.usual_loss, SEGMENTATION, question, balanced)

    def metrics(self, question: Question, detailed: bool) -> Measures:
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

    def wrongness(self, outputs: Outputs, targets: Targets, question: Question) -> NDArray[np.float64]:
        masks, truths = outputs["mask"], targets["mask"]
        return np.array([1 - foreground_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)])

    def confusion(self, outputs: Outputs, targets: Targets, question: Question) -> dict[str, Confusion]:
        judged = targets["mask"] != IGNORED
        return crossed(targets["mask"][judged], outputs["mask"][judged], question.labels, "pixels")

    def told(self, truth: Truth) -> str:
        return f"mask {truth.name}"
