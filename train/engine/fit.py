"""Trains a model from a configuration, or resumes a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

from train.compression.channels import restore_channels
from train.compression.zeros import ZeroWeights, first_complete_epoch
from train.config.loading import Config
from train.config.sections import DataConfig
from train.data.augment import make_augmentation
from train.data.dataset import EpochSampler, ImageDataset, make_loader
from train.engine.failures import translate_failures
from train.engine.history import History
from train.engine.learning_check import learning_warnings
from train.engine.module import TrainingModule
from train.engine.pictures import ConfusionCounter, CurvesCallback, draw_batches, draw_predictions
from train.engine.plan import TrainingPlan, plan_run
from train.engine.progress import EpochLogger, quiet_lightning
from train.engine.publish import publish
from train.engine.run_folder import RunFolder
from train.engine.state_files import (
    PRUNED_KEY,
    AtomicCheckpointIO,
    BestEpochCheckpoint,
    FromEpoch,
    PrunedEarlyStopping,
    check_same_config,
    check_same_network,
    last_state,
    network_weights,
    read_state,
)
from train.export import export_checkpoint
from tritonkit.errors import DataError, ExternalError
from tritonkit.networks.network import load_weights
from tritonkit.remotes import local_path
from tritonkit.spec import Frozen
from tritonkit.system.console import warn


class FitResult(Frozen):
    """The result of a finished run, with the best epoch's metrics on val and test."""

    checkpoint: Path
    run: Path
    metrics: dict[str, float | None]
    """None for a metric that cannot be measured."""
    warnings: tuple[str, ...] = ()
    """Signs that the run learned nothing."""
    exported: Path | None
    """The published artifact, if the configuration has an export."""


def fit(config: Config) -> FitResult:
    """Train a model, and write the run folder.

    Raises InputError, before anything is written, for problems of configuration or data; ConfigError also if the
    training diverges or the GPU has too little memory; after the run, whatever `export_checkpoint` raises.
    """
    with quiet_lightning():
        plan = plan_run(config)
        run = RunFolder.create(config)
        with run.lock(), translate_failures(run, config):
            run.save_config(config)
            plan.splits.save(run.splits, plan.task)
            return _finish(plan, run)


def resume(folder: Path) -> FitResult:
    """Resume a stopped run from its last complete epoch; the final weights are the same as without the stop.

    Raises InputError as `fit` does, and if the run is finished or its data has changed.
    """
    run = RunFolder.open_unfinished(folder)
    config = run.load_config()
    with run.lock(), translate_failures(run, config), quiet_lightning():
        run.delete_partial_files()
        state = last_state(run)
        check_same_config(state, config, run)
        local_path(config.data.path)  # the splits name images of its copy in the cache, which may have been emptied
        plan = plan_run(config, DataConfig(path=run.splits, test_ratio=0), is_resumed=state is not None)
        if plan.splits.fingerprint != run.fingerprint():
            raise DataError(
                f"{run.splits}: the images have changed since the run was started; start a new run", code="data.changed"
            )
        if state is not None and state.get(PRUNED_KEY):
            restore_channels(plan.network, network_weights(state))
        check_same_network(state, plan.network, run)
        epoch = 0 if state is None else state["epoch"] + 1
        progress = f"resuming after epoch {epoch}" if epoch else "no epoch is complete; starting again"
        warn(f"{run.path}: {progress}")
        return _finish(plan, run)


def _finish(plan: TrainingPlan, run: RunFolder) -> FitResult:
    best, rows = _train(plan, run)
    warnings = learning_warnings(rows, plan.task, plan.splits.val)
    publish("last", plan, run, warnings)
    confusions = ConfusionCounter(plan, run)
    for rank, state in reversed(list(enumerate(best, start=1))):
        load_weights(plan.network, network_weights(read_state(state)), origin=str(state))
        on_batch = confusions.add if rank == 1 else None
        metrics = publish("best" if rank == 1 else f"best-{rank}", plan, run, warnings, on_batch)
    confusions.draw()
    draw_predictions(plan, run)
    checkpoint, config = run.checkpoint("best"), plan.config
    exported = None if config.export is None else export_checkpoint(checkpoint, config.export, config.plugins)
    for warning in warnings:
        warn(f"warning: {warning}")
    return FitResult(checkpoint=checkpoint, run=run.path, metrics=metrics, warnings=warnings, exported=exported)


def _train(plan: TrainingPlan, run: RunFolder) -> tuple[list[Path], list[dict[str, float]]]:
    """Train the plan's network up to the last epoch, unless that is already done.

    Returns the state files of the best epochs, the best first, and the metrics after each epoch.
    """
    config = plan.config
    best = BestEpochCheckpoint(
        run.states,
        "best-{epoch}",
        monitor=f"val_{plan.task.monitor}",
        mode="max",
        save_top_k=config.keep_best,
        # Averaged weights are only stored in a complete state.
        save_weights_only=config.ema is None,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer, is_resumed = _trainer(plan, run, best), run.last_state.is_file()
    epoch = 0
    if is_resumed:
        state = read_state(run.last_state)
        stopped_early = any(
            isinstance(each, dict) and each.get("stopped_epoch") for each in state["callbacks"].values()
        )
        epoch = config.total_epochs if stopped_early else int(state["epoch"]) + 1
    if epoch < config.total_epochs:
        train, val = _loaders(plan, epoch)
        draw_batches(plan, run, train)
        module = TrainingModule(plan.network, plan.task, plan.loss, config)
        _run(trainer, module, train, val, run.last_state if is_resumed else None)
    # Read the results from the state file, because another process may have trained the last epochs.
    state = read_state(run.last_state)
    load_weights(plan.network, network_weights(state), origin=str(run.last_state))
    scores: dict[str, Tensor] = state["callbacks"][best.state_key]["best_k_models"]
    paths = [run.states / Path(path).name for path in sorted(scores, key=lambda path: -float(scores[path]))]
    # Lightning deletes a replaced best state before it writes the last state; a kill in between loses the file.
    rows = state["callbacks"][History.__qualname__]["rows"]
    return [path for path in paths if path.is_file()] or [run.last_state], rows


def _trainer(plan: TrainingPlan, run: RunFolder, best: ModelCheckpoint) -> Trainer:
    config, history = plan.config, History(run.metrics)
    # Without a monitored metric, Lightning keeps the newest state.
    last = ModelCheckpoint(run.states, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    optional: list[Callback] = []
    if (decay := config.ema) is not None:
        # This form leaves equal values, such as constant buffers, exactly unchanged.
        optional.append(WeightAveraging(avg_fn=lambda average, current, _: average + (current - average) * (1 - decay)))
    if config.patience is not None:
        stopping = PrunedEarlyStopping if config.pruning else EarlyStopping
        optional.append(stopping(f"val_{plan.task.monitor}", mode="max", patience=config.patience))
    if plan.pruned:  # after the averaging, whose weights it sets to zero too
        optional.append(ZeroWeights(plan.pruned, config))
    reporting = (history, CurvesCallback(plan, run, history), EpochLogger())
    callbacks = [*optional, *reporting, *plan.callbacks, best, last]
    for each in callbacks:
        if isinstance(each, FromEpoch):
            each.first_epoch = first_complete_epoch(config)
    return Trainer(
        devices=1,
        precision=plan.precision,
        max_epochs=config.total_epochs,
        accumulate_grad_batches=config.accumulate,
        logger=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _loaders(plan: TrainingPlan, epoch: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Create the data loaders of train and val; `epoch` is the next epoch."""
    config, splits, preprocess = plan.config, plan.splits, plan.network.spec.preprocess
    common = (plan.task, splits.task_spec, preprocess)
    classes = [next(iter(plan.task.classes(sample.truth)), "") for sample in splits.train]
    sampler = EpochSampler(classes, config.seed, config.data.per_class, epoch)
    train = ImageDataset(splits.train, *common, make_augmentation(config.augment, preprocess.fill), config.seed)
    val = ImageDataset((*splits.base, *splits.val), *common)
    return (
        make_loader(train, config.batch_size, config.workers, sampler),
        make_loader(val, config.batch_size, config.workers),
    )


def _run(
    trainer: Trainer, module: TrainingModule, train: DataLoader[Any], val: DataLoader[Any], state: Path | None
) -> None:
    threads = torch.get_num_threads()
    try:
        # With more threads and workers than cores, torch becomes very slow.
        torch.set_num_threads(max(1, threads - train.num_workers))
        trainer.fit(module, train, val, ckpt_path=state, weights_only=True)
    except SystemExit as stop:
        # Lightning turns both signals into exits: Ctrl+C into exit code 1, SIGTERM into 0. Neither fits here.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from stop
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(*stop.__context__.args) from stop
        raise ExternalError(
            f"a callback ended the training with exit code {stop.code}", code="training.callback_exit"
        ) from stop
    except RuntimeError as error:
        # A signal to a process group also ends the workers, and their end may be noticed first.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from error
        raise
    finally:
        torch.set_num_threads(threads)
