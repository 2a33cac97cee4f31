"""Train a model from a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from model.errors import ConfigError, DataError, SpecError
from model.network import Network, architecture_of, load_weights, timm_normalize
from model.spec import Architecture, Frozen, ModelSpec, image_input
from model.tasks import TASKS
from train.augment import augmentation
from train.config import Config, Precision
from train.data import Splits, read_splits
from train.dataset import Batch, Pictures, loader
from train.module import TrainingModule
from train.progress import EpochLines, quiet_lightning
from train.publish import publish
from train.run_folder import RunFolder
from train.tasks import TRAINING_TASKS


class Fitted(Frozen):
    """A finished run, and the best epoch's figures on the val and test parts."""

    checkpoint: Path
    run: Path
    metrics: dict[str, float]


def fit(config: Config) -> Fitted:
    """Train, and write the run's folder.

    Raises ConfigError, DataError and SpecError before anything is written where the input is at fault, ConfigError
    also when training diverges or the GPU's memory does not suffice.
    """
    architecture, precision = _architecture(config), _precision(config)
    splits = read_splits(config.data, config.seed)
    spec = _spec(config, architecture, splits.labels)
    with quiet_lightning():
        seed_everything(config.seed, workers=True, verbose=False)
        network = Network(spec, pretrained=config.model.pretrained)
        _check_takes(network)
        run = RunFolder.create(config)
        run.save_config(config)
        splits.save(run.splits)
        best = _train(network, splits, config, precision, run)
    publish("last", network, splits, config, run)
    load_weights(network, best, origin=str(run.states))
    metrics = publish("best", network, splits, config, run)
    return Fitted(checkpoint=run.checkpoint("best"), run=run.path, metrics=metrics)


def _architecture(config: Config) -> Architecture:
    preprocess = config.image.preprocess
    known = architecture_of(config.model.name, preprocess.height, preprocess.width)
    return known.model_copy(update={"arguments": {**known.arguments, **config.model.arguments}})


def _precision(config: Config) -> Precision:
    gpu = torch.cuda.is_available()
    if config.precision == "16-mixed" and not gpu:
        raise ConfigError("precision: 16-mixed needs a CUDA GPU, and torch sees none; use auto or 32-true")
    if config.precision != "auto":
        return config.precision
    if not gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _spec(config: Config, architecture: Architecture, labels: tuple[str, ...]) -> ModelSpec:
    try:
        outputs = TASKS[config.task].outputs(labels)
    except SpecError as error:
        raise DataError(f"{config.data.path}: {error}: {', '.join(labels)}") from error
    preprocess = config.image.preprocess
    return ModelSpec(
        name=config.name,
        task=config.task,
        architecture=architecture,
        input=image_input(preprocess),
        outputs=outputs,
        preprocess=preprocess,
        normalize=timm_normalize(config.model.name),
        labels=labels,
    )


def _check_takes(network: Network) -> None:
    """Find out before the run whether the backbone takes images of this size."""
    shape = network.spec.input.shape
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros((2, *shape), dtype=torch.uint8))
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        name = network.spec.architecture.name
        raise ConfigError(f"{name} takes no images [{', '.join(map(str, shape))}]: {error}") from error
    # Lightning keeps the mode it finds.
    network.train()


def _train(network: Network, splits: Splits, config: Config, precision: Precision, run: RunFolder) -> dict[str, Tensor]:
    """Train in place to the last epoch; returns the best epoch's weights."""
    monitor = f"val_{TRAINING_TASKS[config.task].monitor}"
    best = ModelCheckpoint(run.states, "best", monitor=monitor, mode="max", save_weights_only=True)
    # Without a monitored figure Lightning keeps the newest.
    last = ModelCheckpoint(run.states, "last")
    trainer = Trainer(
        devices=1,
        precision=precision,
        max_epochs=config.epochs,
        logger=CSVLogger(run.path, name="", version=""),
        callbacks=[best, last, EpochLines()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    _run(trainer, TrainingModule(network, config), *_loaders(splits, config))
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("network."): tensor for key, tensor in state.items()}


def _loaders(splits: Splits, config: Config) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    task, preprocess = TRAINING_TASKS[config.task], config.image.preprocess
    augment = augmentation(config.augment, preprocess.fill)
    train, val = (task.targets([s.label for s in part], splits.labels) for part in (splits.train, splits.val))
    return (
        loader(Pictures(splits.train, train, preprocess, augment), config.batch_size, config.workers, training=True),
        loader(Pictures(splits.val, val, preprocess), config.batch_size, config.workers),
    )


@contextmanager
def _cores_beside(workers: int) -> Iterator[None]:
    """Leave the workers' cores to them: on a full machine torch's threads wait for one another and crawl."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(trainer: Trainer, module: TrainingModule, train: DataLoader[Batch], val: DataLoader[Batch]) -> None:
    try:
        with _cores_beside(train.num_workers):
            trainer.fit(module, train, val)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU's memory does not suffice for batch_size {module.config.batch_size}; lower it"
        ) from error
    except SystemExit as stop:
        # Lightning turns Ctrl+C into exit(1), which would say that the answer is no.
        if trainer.received_sigterm:
            raise
        raise KeyboardInterrupt from stop
