"""Trains a model from a configuration, or resumes a run that was stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor

from train.compression.fake_quantization import QuantizationAware
from train.compression.zeros import ZeroWeights, first_complete_epoch
from train.config.loading import Config
from train.config.sections import DataConfig
from train.data.remote_images import fetch_missing_images
from train.distributed.launch import launch
from train.distributed.processes import strategy_name
from train.engine.failures import run_trainer, translate_failures
from train.engine.history import History
from train.engine.learning_check import learning_warnings
from train.engine.lr_finder.finder import draw_search, with_learning_rate
from train.engine.module import TrainingModule
from train.engine.pictures import ConfusionCounter, CurvesCallback, draw_batches, draw_predictions
from train.engine.plan import TrainingPlan, data_loaders, plan_run, with_batch_size
from train.engine.progress import EpochLogger, quiet_lightning
from train.engine.publish import publish
from train.engine.run_folder import RunFolder
from train.engine.run_report import report_at_end
from train.engine.state_files import (
    AtomicCheckpointIO,
    BestEpochCheckpoint,
    FromEpoch,
    PrunedEarlyStopping,
    check_same_config,
    check_same_network,
    last_state,
    network_weights,
    read_state,
    restore_channels,
)
from train.engine.tracking.trackers import Trackers, open_trackers
from train.export import export_checkpoint
from tritonkit.errors import DataError
from tritonkit.networks.network import load_weights
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
    report: Path | None = None
    """The page about the run; None if it could not be written."""


def fit(config: Config, check: Callable[[TrainingPlan], None] | None = None) -> FitResult:
    """Train a model, and write the run folder. check: called with the plan before anything is written.

    Raises InputError, before anything is written, for problems of configuration or data; ConfigError also if the
    training diverges or the GPU has too little memory; after the run, whatever `export_checkpoint` raises.
    """
    with quiet_lightning():
        plan = plan_run(config)
        if check is not None:
            check(plan)
        plan, search = with_learning_rate(with_batch_size(plan))
        config = plan.config
        with open_trackers(config) as trackers:
            run = RunFolder.create(config)
            with run.lock(), translate_failures(run, config):
                run.save_config(config)
                if search is not None:
                    draw_search(run.learning_rate, search, config.name)
                plan.splits.save(run.splits, plan.task)
                return _finish(plan, run, trackers)


def resume(folder: Path) -> FitResult:
    """Resume a stopped run from its last complete epoch; the final weights are the same as without the stop.

    Raises InputError as `fit` does, and if the run is finished or its data has changed.
    """
    run = RunFolder.open_unfinished(folder)
    config = run.load_config()
    # The trackers come first, so that they send the rest after the folder is unlocked.
    with open_trackers(config) as trackers, run.lock(), translate_failures(run, config), quiet_lightning():
        run.delete_partial_files()
        state = last_state(run)
        if state is not None:
            check_same_config(state, config, run)
        fetch_missing_images(run.splits, config)
        plan = plan_run(config, DataConfig(path=run.splits, test_ratio=0), is_resumed=state is not None)
        if plan.splits.fingerprint != run.fingerprint():
            raise DataError(
                f"{run.splits}: the images have changed since the run was started; start a new run", code="data.changed"
            )
        if state is not None:
            restore_channels(plan.network, state)
            check_same_network(state, plan.network, run)
        if "auto" in (config.batch_size, config.optimizer.lr):
            plan, _ = with_learning_rate(with_batch_size(plan))
            run.save_config(plan.config)
        epoch = 0 if state is None else state["epoch"] + 1
        progress = f"resuming after epoch {epoch}" if epoch else "no epoch is complete; starting again"
        warn(f"{run.path}: {progress}")
        return _finish(plan, run, trackers)


def _finish(plan: TrainingPlan, run: RunFolder, trackers: Trackers) -> FitResult:
    trackers.start(run)
    best, rows = _train(plan, run, trackers)
    warnings = learning_warnings(rows, plan.task, plan.splits.val)
    publish("last", plan, run, warnings)
    confusions = ConfusionCounter(plan, run)
    for rank, state in reversed(list(enumerate(best, start=1))):
        load_weights(plan.network, network_weights(read_state(state)), origin=str(state))
        on_batch = confusions.add if rank == 1 else None
        metrics = publish("best" if rank == 1 else f"best-{rank}", plan, run, warnings, on_batch)
    confusions.draw()
    draw_predictions(plan, run)
    trackers.finish(run, metrics, plan.task.monitor)
    return export_and_report(run, plan.config, metrics, warnings)


def export_and_report(
    run: RunFolder, config: Config, metrics: dict[str, float | None], warnings: tuple[str, ...]
) -> FitResult:
    """Export the best checkpoint of a run if its configuration has an export, write its page, and show warnings."""
    checkpoint = run.checkpoint("best")
    with report_at_end(run):
        exported = None if config.export is None else export_checkpoint(checkpoint, config.export, config.plugins)
    for warning in warnings:
        warn(f"warning: {warning}")
    report = run.report if run.report.is_file() else None
    return FitResult(
        checkpoint=checkpoint, run=run.path, metrics=metrics, warnings=warnings, exported=exported, report=report
    )


def _train(plan: TrainingPlan, run: RunFolder, trackers: Trackers) -> tuple[list[Path], list[dict[str, float]]]:
    """Train the plan's network up to the last epoch, unless that is already done.

    Returns the state files of the best epochs, the best first, and the metrics after each epoch.
    """
    epoch = _next_epoch(plan, run)
    if epoch < plan.config.total_epochs:
        if not run.batches.is_file():
            draw_batches(plan, run, data_loaders(plan, epoch)[0])
        if plan.processes.count > 1 and not plan.processes.is_member:
            # -P: a file of the working directory, such as random.py, must not replace a module of Python.
            launch([sys.executable, "-P", "-m", "train.engine.worker", str(run.path)], plan.processes, trackers.poll)
        else:
            train_here(plan, run, trackers)
    # Read the results from the state file, because other processes may have trained.
    state = read_state(run.last_state)
    load_weights(plan.network, network_weights(state), origin=str(run.last_state))
    scores: dict[str, Tensor] = state["callbacks"][_best_epochs(plan, run).state_key]["best_k_models"]
    paths = [run.states / Path(path).name for path in sorted(scores, key=lambda path: -float(scores[path]))]
    paths = paths[: plan.config.keep_best]
    # Lightning deletes a replaced best state before it writes the last state; a kill in between loses the file.
    rows = state["callbacks"][History.__qualname__]["rows"]
    return [path for path in paths if path.is_file()] or [run.last_state], rows


def train_here(plan: TrainingPlan, run: RunFolder, trackers: Trackers | None = None) -> None:
    """Train the plan's network in this process, from the last complete epoch on; one of several takes its share.

    trackers: those of `fit`; None in a process that was started to train alone.
    """
    epoch = _next_epoch(plan, run)
    if epoch < plan.config.total_epochs:
        module = TrainingModule(plan.network, plan.task, plan.loss, plan.config)
        trainer = _trainer(plan, run, trackers or Trackers.of_worker(plan, run))
        run_trainer(trainer, module, *data_loaders(plan, epoch), run.last_state if run.last_state.is_file() else None)
    if torch.distributed.is_initialized():
        # What follows is the work of one process; metrics would wait for the others.
        torch.distributed.destroy_process_group()


def _next_epoch(plan: TrainingPlan, run: RunFolder) -> int:
    if not run.last_state.is_file():
        return 0
    state = read_state(run.last_state)
    stopped_early = any(isinstance(each, dict) and each.get("stopped_epoch") for each in state["callbacks"].values())
    return plan.config.total_epochs if stopped_early else int(state["epoch"]) + 1


def _best_epochs(plan: TrainingPlan, run: RunFolder) -> BestEpochCheckpoint:
    return BestEpochCheckpoint(
        run.states,
        "best-{epoch}",
        monitor=f"val_{plan.task.monitor}",
        mode="max",
        save_top_k=plan.config.keep_best,
        # Averaged weights are only stored in a complete state.
        save_weights_only=plan.config.ema is None,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _trainer(plan: TrainingPlan, run: RunFolder, trackers: Trackers) -> Trainer:
    config, processes, history = plan.config, plan.processes, History(run.metrics)
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
    if config.quantization is not None:
        optional.append(QuantizationAware(config.quantization))
    reporting: tuple[Callback, ...] = (
        () if processes.rank else (history, CurvesCallback(plan, run, history), EpochLogger())
    )
    reporting = (*reporting, *trackers.callbacks(plan, run))
    callbacks = [*optional, *reporting, *plan.callbacks, _best_epochs(plan, run), last]
    for each in callbacks:
        if isinstance(each, FromEpoch):
            each.first_epoch = first_complete_epoch(config)
    return Trainer(
        devices=processes.on_host,
        num_nodes=processes.hosts,
        strategy=strategy_name(config, processes),
        use_distributed_sampler=False,
        precision=plan.precision,
        max_epochs=config.total_epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
        logger=trackers.loggers,
        plugins=[AtomicCheckpointIO(), *([TorchElasticEnvironment()] if processes.is_member else [])],
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
