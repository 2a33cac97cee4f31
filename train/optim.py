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

from model.errors import ConfigError
from train.config import Config
from train.sections import OptimizerConfig, SchedulerConfig

FUSED = ("adam", "adamw", "sgd")
"""Optimizers of torch that take one step over all weights in one kernel, also on a CPU."""


def optimizer_for(module: nn.Module, how: OptimizerConfig) -> Optimizer:
    """The optimizer of a module's weights. Raises ConfigError."""
    known = [str(name) for name in list_optimizers()]
    if how.name not in known:
        near = difflib.get_close_matches(how.name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.optim.list_optimizers()"
        raise ConfigError(f"optimizer.name: timm has no optimizer {how.name!r}; {hint}")
    arguments: dict[str, Any] = {**({"fused": True} if how.name in FUSED else {}), **how.arguments}
    groups = param_groups_weight_decay(module, how.weight_decay)
    try:
        optimizer: Optimizer = create_optimizer_v2(groups, opt=how.name, lr=how.lr, weight_decay=0.0, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {how.name} does not take {dict(how.arguments)}: {error}") from error
    return optimizer


def schedule_for(optimizer: Optimizer, config: Config, steps: int) -> LRScheduler:
    """The learning rate over all steps of both stages. Raises ConfigError."""
    how = config.scheduler
    if how.name not in SHAPES:
        return _of_torch(optimizer, config, steps)
    frozen = round(steps * config.frozen_epochs / config.all_epochs)
    first = (config.frozen_lr or config.optimizer.lr) / config.optimizer.lr

    def factor(step: int) -> float:
        if step < frozen:
            return first * learning_rate_factor(step, frozen, how)
        return learning_rate_factor(step - frozen, steps - frozen, how)

    return LambdaLR(optimizer, factor)


def learning_rate_factor(step: int, steps: int, how: SchedulerConfig) -> float:
    """What the learning rate is multiplied with at a step of a stage: a linear rise, then the shape of the name."""
    warmup = how.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SHAPES[how.name]((step - warmup) / max(1.0, steps - warmup), how)


SHAPES: dict[str, Callable[[float, SchedulerConfig], float]] = {
    "cosine": lambda done, how: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done, how: 1 - done,
    "constant": lambda done, how: 1.0,
    "multistep": lambda done, how: how.gamma ** sum(done >= milestone for milestone in how.milestones),
    "exponential": lambda done, how: how.gamma**done,
}
"""By name, from the share of a stage that is done to the share of the learning rate."""


def trial_optimizer(how: OptimizerConfig) -> Optimizer:
    """Of a module that stands for any, to find out whether it can be made. Raises ConfigError."""
    return optimizer_for(nn.Linear(1, 1), how)


def _of_torch(optimizer: Optimizer, config: Config, steps: int) -> LRScheduler:
    how = config.scheduler
    kind: Any = getattr(lr_scheduler, how.name, None)
    # ReduceLROnPlateau wants a figure at each step, and there is none after a batch.
    if not (isinstance(kind, type) and issubclass(kind, LRScheduler)) or kind is lr_scheduler.ReduceLROnPlateau:
        raise ConfigError(
            f"scheduler.name: there is no {how.name!r}; there are {', '.join(SHAPES)}, "
            "and the classes of torch.optim.lr_scheduler that are stepped without a metric"
        )
    if config.frozen_lr is not None:
        raise ConfigError(f"frozen_lr: {how.name} knows no stages; take {', '.join(SHAPES)}, or leave frozen_lr out")
    # How many steps there are is known only here.
    lengths = ("total_steps", "T_max", "total_iters")
    known = {name: steps for name in lengths if name in inspect.signature(kind).parameters}
    arguments: dict[str, Any] = {**known, **how.arguments}
    try:
        schedule: LRScheduler = kind(optimizer, **arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"scheduler: {how.name} does not take {dict(how.arguments)}: {error}") from error
    return schedule
