"""Creates and checks everything that a run needs, before anything is written or trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, default_collate

from train.compression.channels import check_torch_pruning, match_channels, remove_channels
from train.compression.fake_quantization import FakeQuantizer
from train.compression.zeros import PrunedTensor, pruned_tensors
from train.config.loading import Config, Precision
from train.config.pruning_functions import CHANNELS
from train.config.sections import DataConfig, OptimizerConfig
from train.data.augment import BatchMix, make_augmentation
from train.data.batch_size import LARGEST, SHARE, SMALLEST, free_memory, largest_on_cpu, largest_on_gpu
from train.data.dataset import EpochSampler, ImageDataset, make_loader
from train.data.splits import Splits, read_splits
from train.distributed.processes import Processes, plan_processes
from train.distributed.sharing import TrainingShare, validation_batches
from train.engine.optim import check_optimizer, make_optimizer, make_schedule
from train.export import check_can_export
from train.tasks import TrainingTask, training_task
from train.tasks.losses import WeightedSum
from train.tracking import check_trackers
from tritonkit.errors import CheckpointError, ConfigError, DataError, InputError, Problem, SpecError
from tritonkit.networks.backbones import architecture_of, dense_architecture_of, normalize_of, torchvision_name_hint
from tritonkit.networks.network import Network, load_weights
from tritonkit.networks.weight_matching import match_weights
from tritonkit.networks.weights import ForeignWeights, read_foreign
from tritonkit.plugins import find_plugin, load_plugins
from tritonkit.remotes import local_path
from tritonkit.remotes.addresses import public_name
from tritonkit.spec import Architecture, ModelSpec, image_input
from tritonkit.system.console import warn
from tritonkit.tasks import task_for

T = TypeVar("T")
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
"""What torch.autocast calculates in, for each precision that is mixed."""


@dataclass(frozen=True)
class TrainingPlan:
    """The network, data, loss and settings of a run."""

    config: Config
    task: TrainingTask
    splits: Splits
    network: Network
    loss: nn.Module
    precision: Precision
    callbacks: tuple[Callback, ...]
    processes: Processes
    pruned: tuple[PrunedTensor, ...]
    """The tensors in which weights become zero."""


def plan_run(config: Config, data: DataConfig | None = None, is_resumed: bool = False) -> TrainingPlan:
    """Resolve all names, read the data, and build the network.

    data: replaces the configuration's data section. is_resumed: the weights will come from a saved state, so initial
    weights are not loaded. Raises InputError that lists all problems of names and data.
    """
    load_plugins(config.plugins)
    task = training_task(config)
    # Seed before the losses are created, because some of them have weights.
    seed_everything(config.seed, workers=True, verbose=False)
    errors: list[InputError] = []
    architecture = _collect_errors(lambda: _architecture(config, task), errors)
    precision = _collect_errors(lambda: _precision(config), errors)
    callbacks = _collect_errors(lambda: _callbacks(config), errors)
    processes = _collect_errors(lambda: plan_processes(config), errors) or Processes()
    optimizer = _collect_errors(lambda: check_optimizer(config.optimizer), errors) or check_optimizer(OptimizerConfig())
    _collect_errors(lambda: make_schedule(optimizer, config, steps=10), errors)
    if (export := config.export) is not None:
        _collect_errors(lambda: check_can_export(export), errors)
    _collect_errors(lambda: check_trackers(config), errors)
    path = None if is_resumed else config.model.weights
    weights = None if path is None else _collect_errors(lambda: read_foreign(local_path(path)), errors)
    if any(section.function == CHANNELS for section in config.pruning):
        _collect_errors(check_torch_pruning, errors)
    splits = _collect_errors(lambda: read_splits(data or config.data, task, config.seed), errors)
    if splits is not None:
        _collect_errors(lambda: _check_measurable(task, splits), errors)
        _collect_errors(lambda: _check_shares(splits, processes), errors)
    truths = [] if splits is None else [sample.truth for sample in splits.train]
    loss = None if splits is None else _collect_errors(lambda: task.loss(splits.task_spec, truths), errors)
    if architecture is None or precision is None or callbacks is None or splits is None or loss is None or errors:
        problems = [problem for error in errors for problem in error.problems or [Problem(error.code, str(error))]]
        message = "\n".join(map(str, errors))
        if splits is None:
            raise DataError(message, code="data.invalid", problems=problems)
        raise ConfigError(message, code="config.invalid", problems=problems)
    image = image_input(config.image.preprocess)
    spec = ModelSpec(
        **splits.task_spec.model_dump(),
        name=config.name,
        architecture=architecture,
        input=image,
        outputs=task_for(splits.task_spec).outputs(image),
        preprocess=config.image.preprocess,
        normalize=normalize_of(architecture),
        crop=splits.provenance.crop,
    )
    network = Network(spec, pretrained=config.model.pretrained and not is_resumed)
    network.check_patch_multiple("image.size")
    _check_image_shape(network)
    _show_class_weights(loss)
    if config.frozen_epochs:
        list(network.modules_without_heads())
    if path is not None and weights is not None:
        _load_initial_weights(public_name(str(path)), weights, network)
    for section in config.pruning:
        if section.function == CHANNELS and not is_resumed:
            remove_channels(network, section)
    pruned = pruned_tensors(network, config)
    return TrainingPlan(config, task, splits, network, loss, precision, callbacks, processes, pruned)


def _collect_errors(make: Callable[[], T], errors: list[InputError]) -> T | None:
    """Call a function; if it raises InputError, add the error to the list and return None."""
    try:
        return make()
    except InputError as error:
        errors.append(error)
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
        raise ConfigError(
            "precision: 16-mixed needs a CUDA GPU, and torch finds none; use auto or 32-true",
            code="config.precision_needs_gpu",
        )
    if config.precision != "auto":
        return config.precision
    if not gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _callbacks(config: Config) -> tuple[Callback, ...]:
    callbacks = []
    for component in config.callbacks:
        try:
            callback = find_plugin("callback", component.name)(**component.arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"callback {component.name}: invalid arguments: {error}", code="config.callback_arguments"
            ) from error
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callback {component.name}: expected a lightning Callback, got {type(callback).__name__}",
                code="config.callback_type",
            )
        callbacks.append(callback)
    return tuple(callbacks)


def _show_class_weights(loss: nn.Module) -> None:
    """Show the class weights that the losses use."""
    for each in loss.modules():
        for name, weights in each.class_weights.items() if isinstance(each, WeightedSum) else ():
            listing = ", ".join(f"{label} {weight:.4g}" for label, weight in weights.items())
            warn(f"class weights of {name}: {listing}")


def _check_measurable(task: TrainingTask, splits: Splits) -> None:
    """Raise DataError if the metric that selects the best epoch cannot be measured."""
    problem = task.monitor_problem([sample.truth for sample in splits.val], [sample.truth for sample in splits.base])
    if problem is not None:
        raise DataError(
            f"{task.monitor}, which selects the best epoch, cannot be measured: {problem}; add images",
            code="data.monitor_not_measurable",
        )


def _check_shares(splits: Splits, processes: Processes) -> None:
    """Raise DataError if a process would get no images of val, or fewer of train than a batch norm can learn from."""
    for part, samples, least in (("train", splits.train, 2), ("val", (*splits.base, *splits.val), 1)):
        if processes.count > 1 and len(samples) < least * processes.count:
            raise DataError(
                f"{part} has {len(samples)} images, too few for {processes.count} processes; lower devices",
                code="data.too_few_for_processes",
            )


def _check_image_shape(network: Network) -> None:
    """Check before the run that the network accepts images of this size and returns the task's output shapes."""
    spec = network.spec
    shape = spec.input.shape
    try:
        with torch.inference_mode():
            answers = network.eval()(torch.zeros((2, *shape), dtype=torch.uint8))
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as error:
        name = spec.architecture.name
        raise ConfigError(
            f"{name} does not accept images [{', '.join(map(str, shape))}]: {error}", code="config.image_shape"
        ) from error
    for output, answer in zip(spec.outputs, answers, strict=True):
        if tuple(answer.shape[1:]) != output.shape:
            raise SpecError(
                f"{spec.architecture.name} returns {output.name} {list(answer.shape[1:])}, expected {output}",
                code="spec.output_shape",
            )
    # Lightning does not change the mode of the network.
    network.train()


def _load_initial_weights(path: str, weights: ForeignWeights, network: Network) -> None:
    """Load the tensors of a checkpoint that fit, and show what was loaded, skipped and initialised anew."""
    if weights.pruned is not None:
        match_channels(network, weights.pruned, weights.state, path)
    try:
        matched = match_weights(weights.state, dict(network.state_dict()), origin=path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}{torchvision_name_hint(network.spec.architecture.name)}", code=error.code
        ) from error
    load_weights(network, matched.weights, origin=path, strict=False)
    counts = (
        f"{len(matched.weights)} tensors loaded, {len(matched.skipped)} skipped, {len(matched.new_tensors)} initialised"
    )
    warn("; ".join(filter(None, [f"{path}: {counts}", matched.description, weights.note])))
    for action, names in (("skipped", matched.skipped), ("initialised", matched.new_tensors)):
        if names:
            more = f", … and {len(names) - 10} more" if len(names) > 10 else ""
            warn(f"  {action}: {', '.join(names[:10])}{more}")


def data_loaders(plan: TrainingPlan, epoch: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Create the data loaders of train and val, or of one process's share; `epoch` is the next epoch."""
    config, processes, splits, preprocess = plan.config, plan.processes, plan.splits, plan.network.spec.preprocess
    common = (plan.task, splits.task_spec, preprocess)
    labels = [plan.task.classes(sample.truth) for sample in splits.train]
    sampler = EpochSampler(labels, config.seed, config.data.per_class, epoch, config.data.sampling == "balanced")
    train = ImageDataset(splits.train, *common, make_augmentation(config.augment, preprocess.fill), config.seed)
    val = ImageDataset((*splits.base, *splits.val), *common)
    if not processes.is_member:
        return (
            make_loader(train, config.images_per_batch, config.workers, sampler),
            make_loader(val, config.images_per_batch, config.workers),
        )
    share = (config.images_per_batch, processes.rank, processes.count)
    return (
        make_loader(train, config.images_per_batch, config.workers, TrainingShare(sampler, *share)),
        make_loader(val, config.images_per_batch, config.workers, batches=validation_batches(len(val), *share)),
    )


def with_batch_size(plan: TrainingPlan) -> TrainingPlan:
    """Return the plan with a number in place of `batch_size: auto`. Raises ConfigError if no batch fits."""
    if plan.config.batch_size != "auto":
        return plan
    limit = min(LARGEST, max(len(plan.splits.train) // plan.processes.count, SMALLEST))
    if torch.cuda.is_available():
        size = largest_on_gpu(lambda size: _step(plan, size), limit)
    else:
        available, processes = int(SHARE * free_memory()), plan.processes.on_host
        size = largest_on_cpu(lambda size: _step(plan, size), limit, available, processes)
    warn(f"batch_size: {size} (auto, at most {limit})")
    return replace(plan, config=plan.config.model_copy(update={"batch_size": size}))


def _step(plan: TrainingPlan, size: int) -> None:
    """Take one training step on copies of the network and the loss, with random images."""
    config = plan.config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, loss = copy.deepcopy(plan.network).to(device), copy.deepcopy(plan.loss).to(device)
    preprocess, spec, train = network.spec.preprocess, plan.splits.task_spec, plan.splits.train
    samples = [train[number % len(train)] for number in range(size)]
    targets = default_collate([plan.task.target(s.truth, s.gallery, preprocess, spec) for s in samples])
    optimizer = make_optimizer(network.train(), config.optimizer)
    _average = None if config.ema is None else copy.deepcopy(network)
    rounding = nullcontext() if config.quantization is None else FakeQuantizer(network, config.quantization)
    dtype = AUTOCAST.get(plan.precision)
    with torch.random.fork_rng():
        images = torch.randint(256, (size, preprocess.height, preprocess.width, 3), dtype=torch.uint8, device=device)
        images, targets = BatchMix(config.augment, len(network.spec.labels))(images, _on(targets, device), seed=0)
        with torch.autocast(device.type, dtype, enabled=dtype is not None), rounding:
            value = loss(*plan.task.answered(network.logits, images, targets))
        value.backward()
        optimizer.step()


def _on(targets: object, device: torch.device) -> object:
    if isinstance(targets, dict):
        return {name: _on(each, device) for name, each in targets.items()}
    return targets.to(device) if isinstance(targets, torch.Tensor) else targets
