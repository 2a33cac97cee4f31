"""Trains copies of the network with a learning rate that grows from step to step, and records the losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from train.compression.fake_quantization import QuantizationAware
from train.data.dataset import Batch, mix_seeds
from train.engine.failures import run_trainer
from train.engine.lr_finder.suggestion import Scale
from train.engine.module import TrainingModule
from train.engine.plan import TrainingPlan, data_loaders
from tritonkit.system.console import track_progress

DIVERGED = 4.0
"""A pass ends when its smoothed loss is this many times the smallest one: the rule of fastai's `LRFinder`."""
_DECAY = 0.8
"""Decay of the moving average that decides whether a pass has diverged."""


def sweep_rates(low: float, high: float, steps: int, scale: Scale) -> NDArray[np.float64]:
    """Return the learning rate of each step, from `low` to `high`, equally spaced on the scale: [steps]."""
    return np.geomspace(low, high, steps) if scale == "log" else np.linspace(low, high, steps)


def sweep_losses(plan: TrainingPlan, rates: NDArray[np.float64], passes: int) -> NDArray[np.float64]:
    """Return the loss after a step with each rate, [passes, steps]; infinite from where a pass diverged.

    Each pass trains a copy of the network and of the loss, on other batches, as the training does: precision,
    accumulation, clipping, augmentation and fake quantization. All weights learn, also those that `frozen_epochs`
    freezes. A batch of several processes is taken in turns.
    """
    losses = np.full((passes, len(rates)), math.inf)
    count = passes * len(rates)
    steps = iter(track_progress(range(count), f"learning rates, {passes} passes of {len(rates)}", count))
    with torch.random.fork_rng():
        for number in range(passes):
            found = _losses_of_pass(plan, rates, number, lambda: next(steps, None))
            losses[number, : len(found)] = found
    return losses


def _losses_of_pass(
    plan: TrainingPlan, rates: NDArray[np.float64], number: int, on_step: Callable[[], object]
) -> list[float]:
    config = plan.config
    seed = config.seed if number == 0 else mix_seeds(config.seed, number) % 2**32
    plan = replace(plan, config=config.model_copy(update={"seed": seed, "frozen_epochs": 0}))
    module = SweepModule(plan, rates, on_step)
    trainer = Trainer(
        devices=1,
        precision=plan.precision,
        max_epochs=-1,
        max_steps=len(rates) + 1,
        accumulate_grad_batches=config.accumulate * plan.processes.count,
        gradient_clip_val=config.gradient_clip,
        limit_val_batches=0,
        logger=False,
        callbacks=[] if config.quantization is None else [QuantizationAware(config.quantization)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    run_trainer(trainer, module, *data_loaders(plan, epoch=0))
    return module.losses


class SweepModule(TrainingModule):
    """A training whose learning rate is set before each step, and which ends when its loss diverges."""

    def __init__(self, plan: TrainingPlan, rates: NDArray[np.float64], on_step: Callable[[], object]) -> None:
        super().__init__(copy.deepcopy(plan.network), plan.task, copy.deepcopy(plan.loss), plan.config)
        self.losses: list[float] = []
        """After a step with each rate. A loss that is not finite is not among them."""
        self._rates: Iterator[float] = iter(rates.tolist())
        self._on_step = on_step
        self._batches: list[Tensor] = []
        self._is_first, self._average, self._best = True, 0.0, math.inf

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = super().training_step(batch, index)
        self._batches.append(loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record the loss that the steps before have left, and set the rate of this one; the schedule is not used."""
        loss = float(torch.stack(self._batches).mean())
        self._batches.clear()
        if not self._is_first:
            self._record(loss)
        self._is_first = False
        rate = next(self._rates, None)
        for group in optimizer.param_groups if rate is not None else ():
            group["lr"] = rate
        self._on_step()

    def _record(self, loss: float) -> None:
        if not math.isfinite(loss):
            self.trainer.should_stop = True
            return
        self.losses.append(loss)
        self._average = _DECAY * self._average + (1 - _DECAY) * loss
        average = self._average / (1 - _DECAY ** len(self.losses))
        self._best = min(self._best, average)
        if average > DIVERGED * self._best:
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Accept losses that are not finite: they end a pass."""
