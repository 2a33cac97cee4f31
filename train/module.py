"""The network in training, as Lightning wants it."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined] # public, but not in __all__
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.errors import ConfigError
from model.network import Network
from train.config import Config, SchedulerConfig
from train.dataset import Batch
from train.tasks import TRAINING_TASKS

MOMENTUM = 0.9
LOSSES = TRAIN_LOSS, VAL_LOSS = "train_loss", "val_loss"


class TrainingModule(lightning.LightningModule):
    """Loss, metrics and optimizer of one run. Batches: uint8 images [N, H, W, 3], and the task's targets."""

    def __init__(self, network: Network, config: Config) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.task = TRAINING_TASKS[config.task]
        self.metrics = self.task.metrics(network.spec.labels).clone(prefix="val_")

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        images, targets = batch
        loss = self.task.loss(self.network.logits(images), targets, self.config.label_smoothing)
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        """Raises ConfigError when a loss is no number any more."""
        losses = (self.trainer.callback_metrics[name] for name in LOSSES)
        if not all(loss.isfinite() for loss in losses):
            raise ConfigError(
                f"the training diverged: the loss is not finite after epoch {self.current_epoch + 1}. "
                f"Lower optimizer.lr (now {self.config.optimizer.lr}) or use precision=32-true."
            )

    def validation_step(self, batch: Batch, _index: int) -> None:
        images, targets = batch
        logits = self.network.logits(images)
        loss = self.task.loss(logits, targets, label_smoothing=0.0)
        self.log(VAL_LOSS, loss, on_step=False, on_epoch=True, batch_size=len(images))
        self.task.update(self.metrics, self.network.answers(logits), targets)
        self.log_dict(self.metrics, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, self.config.scheduler))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimizer(self) -> Optimizer:
        how = self.config.optimizer
        groups = param_groups_weight_decay(self.network, how.weight_decay)
        if how.name == "sgd":
            return torch.optim.SGD(groups, lr=how.lr, momentum=MOMENTUM, nesterov=True, fused=True)
        return torch.optim.AdamW(groups, lr=how.lr, fused=True)


def learning_rate_factor(step: int, steps: int, how: SchedulerConfig) -> float:
    """What the learning rate is multiplied with at a step: a linear rise, then half a cosine down to 0, or 1."""
    warmup = how.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if how.name == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))
