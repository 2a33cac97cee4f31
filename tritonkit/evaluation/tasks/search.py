"""Search: recall@k in the gallery of the model, and how often it calls known images unknown, or unknown ones known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from tritonkit.evaluation.samples.sample import Truth
from tritonkit.evaluation.tasks.base import BatchTargets, LabelEvaluation
from tritonkit.evaluation.tasks.embedding import class_id
from tritonkit.evaluation.tasks.metrics import Measures
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks.base import Targets
from tritonkit.tasks.search import RANKS, UNKNOWN


class SearchEvaluation(LabelEvaluation):
    """Searches of images whose label is known; a label that the gallery does not have is an unknown class."""

    name = "search"
    monitor = "recall@1"
    open_set = True

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return {"class": class_id(truth), "known": truth in task_spec.labels}

    def golden_targets(self, targets: BatchTargets) -> Targets:
        return {}

    def metrics(self, task_spec: TaskSpec, detailed: bool) -> Measures:
        """Return recall@k and false_reject over images of known classes, and false_accept over unknown ones."""
        count = task_spec.gallery.neighbors if task_spec.gallery is not None else 0
        shares = {f"recall@{k}": ImageShare() for k in RANKS if k <= count}
        return Measures({**shares, "false_accept": ErrorShare(), "false_reject": ErrorShare()}, self._count)

    def _count(self, name: str, metric: Metric, outputs: Mapping[str, Tensor], targets: BatchTargets) -> None:
        known, is_unknown = targets["known"], outputs["answer"][:, 0] == class_id(UNKNOWN)
        if name == "false_accept":
            metric.update(~is_unknown[~known])
        elif name == "false_reject":
            metric.update(is_unknown[known])
        else:
            nearest = outputs["label"][:, : int(name.removeprefix("recall@"))]
            metric.update((nearest == targets["class"][:, None]).any(dim=1)[known])

    def error_score(self, outputs: Outputs, targets: Targets, task_spec: TaskSpec) -> NDArray[np.float64]:
        """Score 1 where the answer is wrong."""
        answers = np.array([class_id(answer) for answer in outputs["answer"][:, 0].tolist()])
        expected = np.where(targets["known"], targets["class"], class_id(UNKNOWN))
        scores: NDArray[np.float64] = (answers != expected).astype(np.float64)
        return scores


class ImageShare(Metric):
    """The share of images for which something holds; NaN without images."""

    higher_is_better = True
    holding: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("holding", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, holds: Tensor) -> None:
        """Add a batch, bool [N]."""
        self.holding += holds.sum()
        self.images += holds.numel()

    def compute(self) -> Tensor:
        return self.holding / self.images  # NaN without images


class ErrorShare(ImageShare):
    """A share of images that should be small."""

    higher_is_better = False
