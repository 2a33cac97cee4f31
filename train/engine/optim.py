"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay  # type: ignore[attr-defined] # public, but not in __all__
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from train.config.loading import Config
from train.config.sections import OptimizerConfig, SchedulerConfig
from tritonkit.errors import ConfigError

FUSED = ("adam", "adamw", "sgd")
"""torch optimizers with a fused kernel: one step updates all weights at once, on a CPU too."""


def make_optimizer(module: nn.Module, config: OptimizerConfig, fused: bool = True) -> Optimizer:
    """Create the optimizer of a module's weights. fused: use a fused kernel if there is one. Raises ConfigError."""
    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        similar = difflib.get_close_matches(config.name, known, n=3)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "see timm.optim.list_optimizers()"
        raise ConfigError(
            f"optimizer.name: timm has no optimizer {config.name!r}; {hint}", code="config.unknown_optimizer"
        )
    arguments: dict[str, Any] = {**({"fused": True} if fused and config.name in FUSED else {}), **config.arguments}
    groups = param_groups_weight_decay(module, config.weight_decay)
    try:
        optimizer: Optimizer = create_optimizer_v2(
            groups, opt=config.name, lr=config.learning_rate, weight_decay=0.0, **arguments
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer: {config.name} does not accept {dict(config.arguments)}: {error}",
            code="config.optimizer_arguments",
        ) from error
    return optimizer


def make_schedule(optimizer: Optimizer, config: Config, steps: int) -> LRScheduler:
    """Create the learning-rate schedule over all steps of both stages. Raises ConfigError."""
    scheduler = config.scheduler
    if scheduler.name not in SHAPES:
        return _torch_schedule(optimizer, config, steps)
    frozen = round(steps * config.frozen_epochs / config.total_epochs)
    rate = config.optimizer.learning_rate
    first = (config.frozen_lr or rate) / rate

    def factor(step: int) -> float:
        if step < frozen:
            return first * learning_rate_factor(step, frozen, scheduler)
        return learning_rate_factor(step - frozen, steps - frozen, scheduler)

    return LambdaLR(optimizer, factor)


def learning_rate_factor(step: int, steps: int, config: SchedulerConfig) -> float:
    """Return the factor on the learning rate at a step of a stage: a linear warm-up, then the named shape."""
    warmup = config.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SHAPES[config.name]((step - warmup) / max(1.0, steps - warmup), config)


SHAPES: dict[str, Callable[[float, SchedulerConfig], float]] = {
    "cosine": lambda progress, config: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress, config: 1 - progress,
    "constant": lambda progress, config: 1.0,
    "multistep": lambda progress, config: config.gamma ** sum(progress >= milestone for milestone in config.milestones),
    "exponential": lambda progress, config: config.gamma**progress,
}
"""Schedules by name: functions from the progress of a stage, 0..1, to a factor on the learning rate."""


def check_optimizer(config: OptimizerConfig) -> Optimizer:
    """Check an optimizer's configuration by creating it for a tiny module. Raises ConfigError."""
    return make_optimizer(nn.Linear(1, 1), config)


def _torch_schedule(optimizer: Optimizer, config: Config, steps: int) -> LRScheduler:
    scheduler = config.scheduler
    kind: Any = getattr(lr_scheduler, scheduler.name, None)
    # ReduceLROnPlateau needs a metric at each step, and there is none after a batch.
    if not (isinstance(kind, type) and issubclass(kind, LRScheduler)) or kind is lr_scheduler.ReduceLROnPlateau:
        raise ConfigError(
            f"scheduler.name: no scheduler has the name {scheduler.name!r}; choose one of {', '.join(SHAPES)}, "
            "or a class of torch.optim.lr_scheduler that is stepped without a metric",
            code="config.unknown_scheduler",
        )
    if config.frozen_lr is not None:
        raise ConfigError(
            f"frozen_lr: {scheduler.name} has no stages; use {', '.join(SHAPES)}, or leave frozen_lr out",
            code="config.frozen_lr",
        )
    # The number of steps is known only here.
    lengths = ("total_steps", "T_max", "total_iters")
    known = {name: steps for name in lengths if name in inspect.signature(kind).parameters}
    arguments: dict[str, Any] = {**known, **scheduler.arguments}
    try:
        schedule: LRScheduler = kind(optimizer, **arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"scheduler: {scheduler.name} does not accept {dict(scheduler.arguments)}: {error}",
            code="config.scheduler_arguments",
        ) from error
    return schedule
