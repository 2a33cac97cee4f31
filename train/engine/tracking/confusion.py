"""Counts the confusion matrix of val in each epoch, from the answers that the validation computes anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from train.engine.pictures import ConfusionCounter, warn_if_drawing_fails
from train.engine.plan import TrainingPlan
from train.engine.run_folder import RunFolder
from train.reports.confusion import write_confusion_image, write_confusion_table
from tritonkit.evaluation.tasks.confusion import ConfusionMatrix, add_matrices


class EpochConfusion(Callback):
    """Writes `confusion/001.png` and `confusion/001.csv` after the first epoch, and so on."""

    def __init__(self, plan: TrainingPlan, run: RunFolder) -> None:
        self._plan, self._run = plan, run
        self._counter = ConfusionCounter(plan, run)
        self._matrices: dict[str, ConfusionMatrix] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counter = ConfusionCounter(self._plan, self._run)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        answers = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
        self._counter.count(answers, move_data_to_device(batch[1], torch.device("cpu")))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not later: at the end of the epoch the first process sums up metrics in callbacks that the others lack.
        self._matrices = sum_over_processes(self._counter.matrices, trainer.world_size)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        for head, confusion in self._matrices.items() if trainer.is_global_zero else ():
            image = self._run.epoch_confusion(epoch, head, ".png")
            with warn_if_drawing_fails(image):
                title = f"{head or self._plan.config.name}: validation after epoch {epoch}"
                write_confusion_table(image.with_suffix(".csv"), confusion)
                write_confusion_image(image, confusion, title)


def sum_over_processes(matrices: Mapping[str, ConfusionMatrix], processes: int) -> dict[str, ConfusionMatrix]:
    """Add up the matrices of all processes. All take part, also one that could not count and has none."""
    if processes == 1:
        return dict(matrices)
    gathered: list[Any] = [None] * processes
    torch.distributed.all_gather_object(gathered, dict(matrices))
    total: dict[str, ConfusionMatrix] = {}
    for each in gathered:
        add_matrices(total, each)
    return total
