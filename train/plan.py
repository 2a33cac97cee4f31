"""Everything a run needs, made and checked before anything is written or trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn

from model.backbones import architecture_of, dense_architecture_of, library_hint, normalize_of
from model.console import warn
from model.errors import CheckpointError, ConfigError, DataError, InputError, SpecError
from model.network import Network, load_weights
from model.plugins import find, load_plugins
from model.spec import Architecture, ModelSpec, TaskSpec, image_input
from model.tasks import task_for
from model.weight_matching import match_weights
from model.weights import ForeignWeights, read_foreign
from train.config import Config, Precision
from train.data import Splits, read_splits
from train.export import check_can_export
from train.losses import WeightedSum
from train.optim import schedule_for, trial_optimizer
from train.sections import DataConfig, OptimizerConfig
from train.tasks import TrainingTask, training_task

Made = TypeVar("Made")


@dataclass(frozen=True)
class Plan:
    """What is trained, on what, and how."""

    config: Config
    task: TrainingTask
    splits: Splits
    network: Network
    loss: nn.Module
    precision: Precision
    callbacks: tuple[Callback, ...]


def plan_run(config: Config, data: DataConfig | None = None, begun: bool = False) -> Plan:
    """Resolve all names, read the data, and build the network.

    data: in place of the configuration's. begun: the weights will come from a state, not from where the run started.
    Raises InputError that tells all that is wrong with names and data.
    """
    load_plugins(config.plugins)
    task = training_task(config)
    # Before the losses are made: some of them have weights too.
    seed_everything(config.seed, workers=True, verbose=False)
    problems: list[str] = []
    architecture = _tried(lambda: _architecture(config, task), problems)
    precision = _tried(lambda: _precision(config), problems)
    callbacks = _tried(lambda: _callbacks(config), problems)
    optimizer = _tried(lambda: trial_optimizer(config.optimizer), problems) or trial_optimizer(OptimizerConfig())
    _tried(lambda: schedule_for(optimizer, config, steps=10), problems)
    if (export := config.export) is not None:
        _tried(lambda: check_can_export(export), problems)
    path = None if begun else config.model.weights
    weights = None if path is None else _tried(lambda: read_foreign(path), problems)
    splits = _tried(lambda: read_splits(data or config.data, task, config.seed), problems)
    if splits is not None:
        _tried(lambda: _check_measurable(task, splits), problems)
    loss = None if splits is None else _tried(lambda: _loss(task, splits), problems)
    if architecture is None or precision is None or callbacks is None or splits is None or loss is None or problems:
        raise (DataError if splits is None else ConfigError)("\n".join(problems))
    network = Network(_spec(config, architecture, splits.question), pretrained=config.model.pretrained and not begun)
    network.check_size("image.size")
    _check_takes(network)
    _say_class_weights(loss)
    if config.frozen_epochs:
        list(network.frozen_while_heads_learn())
    if path is not None and weights is not None:
        _start_from(path, weights, network)
    return Plan(config, task, splits, network, loss, precision, callbacks)


def _tried(make: Callable[[], Made], problems: list[str]) -> Made | None:
    try:
        return make()
    except InputError as error:
        problems.append(str(error))
        return None


def _architecture(config: Config, task: TrainingTask) -> Architecture:
    preprocess, model = config.image.preprocess, config.model
    if task.dense:
        known = dense_architecture_of(model.name, model.encoder)
    else:
        known = architecture_of(model.name, preprocess.height, preprocess.width, option="image.size")
    return known.model_copy(update={"arguments": {**known.arguments, **model.arguments}})


def _precision(config: Config) -> Precision:
    gpu = torch.cuda.is_available()
    if config.precision == "16-mixed" and not gpu:
        raise ConfigError("precision: 16-mixed needs a CUDA GPU, and torch sees none; use auto or 32-true")
    if config.precision != "auto":
        return config.precision
    if not gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _callbacks(config: Config) -> tuple[Callback, ...]:
    made = []
    for wanted in config.callbacks:
        try:
            callback = find("callback", wanted.name)(**wanted.arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"callback {wanted.name}: its arguments do not fit: {error}") from error
        if not isinstance(callback, Callback):
            raise ConfigError(f"callback {wanted.name}: expected a lightning Callback, got {type(callback).__name__}")
        made.append(callback)
    return tuple(made)


def _say_class_weights(loss: nn.Module) -> None:
    """Say which weights of classes the losses use."""
    for each in loss.modules():
        for name, weights in each.class_weights.items() if isinstance(each, WeightedSum) else ():
            listed = ", ".join(f"{label} {weight:.4g}" for label, weight in weights.items())
            warn(f"class weights of {name}: {listed}")


def _check_measurable(task: TrainingTask, splits: Splits) -> None:
    """Raise DataError where the figure that picks the best epoch cannot be measured."""
    why = task.unmeasurable([sample.truth for sample in splits.val], [sample.truth for sample in splits.base])
    if why is not None:
        raise DataError(f"{task.monitor} picks the best epoch and cannot be measured: {why}; bring more pictures there")


def _loss(task: TrainingTask, splits: Splits) -> nn.Module:
    return task.loss(splits.question, [sample.truth for sample in splits.train])


def _spec(config: Config, architecture: Architecture, question: TaskSpec) -> ModelSpec:
    preprocess = config.image.preprocess
    image = image_input(preprocess)
    return ModelSpec(
        **question.model_dump(),
        name=config.name,
        architecture=architecture,
        input=image,
        outputs=task_for(question).outputs(image),
        preprocess=preprocess,
        normalize=normalize_of(architecture),
    )


def _check_takes(network: Network) -> None:
    """Find out before the run whether the network takes images of this size, and answers as its task wants."""
    spec = network.spec
    shape = spec.input.shape
    try:
        with torch.inference_mode():
            answers = network.eval()(torch.zeros((2, *shape), dtype=torch.uint8))
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as error:
        name = spec.architecture.name
        raise ConfigError(f"{name} takes no images [{', '.join(map(str, shape))}]: {error}") from error
    for output, answer in zip(spec.outputs, answers, strict=True):
        if tuple(answer.shape[1:]) != output.shape:
            raise SpecError(f"{spec.architecture.name} gives {output.name} {list(answer.shape[1:])}, expected {output}")
    # Lightning keeps the mode it finds.
    network.train()


def _start_from(path: Path, weights: ForeignWeights, network: Network) -> None:
    """Load what fits of a checkpoint, and say what was loaded, skipped and made anew."""
    try:
        moved = match_weights(weights.state, dict(network.state_dict()), origin=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{library_hint(network.spec.architecture.name)}") from error
    load_weights(network, moved.weights, origin=str(path), strict=False)
    said = f"{path}: {len(moved.weights)} tensors loaded, {len(moved.skipped)} skipped, {len(moved.remade)} made anew"
    said = "; ".join(filter(None, [said, moved.how, weights.note]))
    warn(said)
    for what, names in (("skipped", moved.skipped), ("made anew", moved.remade)):
        if names:
            more = f", … and {len(names) - 10} more" if len(names) > 10 else ""
            warn(f"  {what}: {', '.join(names[:10])}{more}")
