"""The LightningModule of a training run."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from train.config.loading import Config
from train.data.augment import BatchMix
from train.data.dataset import Batch, mix_seeds
from train.engine.optim import make_optimizer, make_schedule
from train.engine.state_files import CONFIG_KEY, PRUNED_KEY
from train.tasks import TrainingTask
from tritonkit.errors import ConfigError, DataError
from tritonkit.networks.network import Network

TRAIN_LOSS, VAL_LOSS = "train_loss", "val_loss"


class TrainingModule(lightning.LightningModule):
    """Loss, metrics and optimizer of one run. A batch: uint8 images [N, H, W, 3] and the task's targets."""

    def __init__(self, network: Network, task: TrainingTask, loss: nn.Module, config: Config) -> None:
        super().__init__()
        self.network, self.loss, self.task, self.config = network, loss, task, config
        # This memory format makes convolutions up to twice as fast, on CPUs and on tensor cores.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.measures = task.metrics(network.spec, detailed=False)
        # Lightning's own mean rounds the number of images of a process, where the processes have unequal numbers.
        self._val_loss = MeanMetric()
        self._validated = 0
        self._mix = BatchMix(config.augment, len(network.spec.labels))
        self._frozen = list(network.modules_without_heads()) if config.frozen_epochs else []

    def on_train_epoch_start(self) -> None:
        """Seed dropout and freeze or unfreeze modules by the epoch's number, and dropout by the process's too."""
        torch.manual_seed(mix_seeds(self.config.seed, self.current_epoch, *filter(None, [self.global_rank])))
        is_unfrozen = self.current_epoch >= self.config.frozen_epochs
        for module in self._frozen:
            module.training = is_unfrozen  # a frozen batch norm also keeps its statistics
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(is_unfrozen)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        seed = mix_seeds(self.config.seed, self.current_epoch, index, self.global_rank)
        images, targets = self._mix(*batch, seed)
        # The place in the epoch's order, whatever the batches are; in the next epoch an image gets another operation.
        first = (index * self.trainer.world_size + self.global_rank) * len(images) + self.current_epoch
        loss: Tensor = self.loss(*self.task.answered(self.network.logits, images, targets, first))
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Check the losses. Raises ConfigError if one is not finite."""
        losses = [self.trainer.callback_metrics.get(name) for name in (TRAIN_LOSS, VAL_LOSS)]
        if not all(loss is None or loss.isfinite() for loss in losses):
            raise ConfigError(
                f"the training diverged: the loss is not finite after epoch {self.current_epoch + 1}. "
                f"Lower optimizer.lr (now {self.config.optimizer.lr}) or use precision=32-true.",
                code="training.diverged",
            )

    def on_validation_epoch_start(self) -> None:
        """Count the images of this process anew."""
        self._validated = 0

    def validation_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """Update the metrics, and return the answers for callbacks."""
        processes = self.trainer.world_size
        first = self.global_rank + processes * self._validated  # as `validation_batches` shares the images
        logits, targets = self.task.answered(self.network.logits, *batch, first, processes)
        self._validated += len(batch[0])
        if self.task.has_val_loss:
            loss = self.loss(logits, targets)
            self._val_loss.update(loss, len(batch[0]))
        answers = (answer.float() if answer.is_floating_point() else answer for answer in self.network.answers(logits))
        outputs = {output.name: answer for output, answer in zip(self.network.spec.outputs, answers, strict=True)}
        self.measures.update(outputs, targets)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log the metrics. Raises DataError if the metric that selects the best epoch cannot be measured."""
        metrics = self.measures.compute()
        if metrics[self.task.monitor].isnan():
            raise DataError(
                f"val_{self.task.monitor}, which selects the best epoch, cannot be measured: val has no image of a "
                "counted class, or the model's answers are not finite",
                code="data.monitor_not_measurable",
            )
        self.log_dict({f"val_{name}": value for name, value in metrics.items()})
        if self.task.has_val_loss:
            self.log(VAL_LOSS, self._val_loss.compute())
            self._val_loss.reset()
        self.measures.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the configuration, so that a resumed run can check it, and whether channels were removed."""
        checkpoint[CONFIG_KEY] = self.config.model_dump(mode="json")
        checkpoint[PRUNED_KEY] = self.network.spec.architecture.pruned

    def configure_optimizers(self) -> Any:
        config = self.config
        # Lightning does not clip before a fused step in mixed precision, which may scale the gradients itself.
        fused = config.gradient_clip is None or self.trainer.precision == "32-true"
        # torch's fused SGD needs a gradient of each weight in the first step.
        fused = fused and not (config.frozen_epochs and config.optimizer.name == "sgd")
        optimizer = make_optimizer(self, config.optimizer, fused)
        schedule = make_schedule(optimizer, self.config, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
