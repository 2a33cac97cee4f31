"""An auxiliary head: it predicts which operation an image was changed by, so its truth is not in the data.

Rotations: Gidaris, Singh, Komodakis, Unsupervised Representation Learning by Predicting Image Rotations,
arXiv 1803.07728. Beside a supervised task: Hendrycks et al., Using Self-Supervised Learning Can Improve Model
Robustness and Uncertainty, arXiv 1906.12340, where the other heads see the unchanged images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tritonkit.errors import Problem
from tritonkit.evaluation.config import AuxiliaryConfig, Operation
from tritonkit.evaluation.samples.sample import Row, Truth
from tritonkit.evaluation.tasks.multiclass import MulticlassEvaluation
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import AUXILIARY_TASK, TaskSpec

_HEIGHT, _WIDTH = 1, 2  # of images [N, H, W, 3]
OPERATIONS: Mapping[Operation, Mapping[str, Callable[[Tensor], Tensor]]] = {
    "rotation": {str(90 * turns): partial(torch.rot90, k=turns, dims=(_HEIGHT, _WIDTH)) for turns in range(4)},
    "flip": {
        "none": lambda images: images,
        "horizontal": partial(torch.flip, dims=(_WIDTH,)),
        "vertical": partial(torch.flip, dims=(_HEIGHT,)),
    },
}
"""By operation, what the head tells apart: labels, and functions of images [N, H, W, 3]. The first changes nothing.
Rotations are in degrees, counter-clockwise."""


class AugmentationEvaluation(MulticlassEvaluation):
    """A classifier of the operation that an image was changed by. The images of the data are unchanged."""

    name = AUXILIARY_TASK
    config: AuxiliaryConfig

    @property
    def operations(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """The functions by label, in the order of the classes."""
        return OPERATIONS[self.config.operation or "rotation"]

    def changed(self, images: Tensor, first: int, step: int) -> tuple[Tensor, Tensor]:
        """Return copies of images [N, H, W, 3], changed by each operation in turn, and the classes [N], int64.

        first, step: the images have the numbers first, first + step, …, so that the batches do not matter.
        """
        classes = (first + step * torch.arange(len(images), device=images.device)) % len(self.operations)
        copies = images.clone()
        for number, operate in enumerate(self.operations.values()):
            copies[classes == number] = operate(images[classes == number])
        return copies, classes

    def truth(self, row: Row) -> Truth:
        return next(iter(self.operations))

    @property
    def label_columns(self) -> Sequence[str]:
        return ()

    def row(self, truth: Truth, task_spec: TaskSpec) -> dict[str, str]:
        return {}

    def classes(self, truth: Truth) -> Sequence[str]:
        """None: its classes are no property of an image, so they are neither counted nor split by."""
        return ()

    def task_spec(self, truths: Sequence[Truth], declared_labels: Sequence[str]) -> TaskSpec:
        return TaskSpec(task=MulticlassEvaluation.name, labels=tuple(self.operations))

    def validate_splits(
        self, truths: Mapping[str, Sequence[Truth]], task_spec: TaskSpec, minimum: int
    ) -> list[Problem]:
        return []

    def baseline_metrics(self, truths: Sequence[Truth]) -> dict[str, dict[str, float]]:
        """A random class: all are equally common."""
        share = 1 / len(self.operations)
        return {"": {"accuracy": share, "macro_f1": share}}

    def target(self, truth: Truth, gallery: bool, preprocess: Preprocess, task_spec: TaskSpec) -> Any:
        return 0
