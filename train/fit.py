"""Train a model from a configuration, or go on with a run that was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

from model.console import warn
from model.errors import DataError, ExternalError
from model.network import load_weights
from model.spec import Frozen
from train.augment import augmentation
from train.config import Config
from train.dataset import EpochSampler, Pictures, loader
from train.export import export_checkpoint
from train.failures import plain_failures
from train.history import History
from train.learning import warnings_of
from train.module import TrainingModule
from train.pictures import Confusions, Curves, draw_batches, draw_predictions
from train.plan import Plan, plan_run
from train.progress import EpochLines, quiet_lightning
from train.publish import publish
from train.run_folder import RunFolder
from train.sections import DataConfig
from train.states import (
    BestEpochs,
    WholeFiles,
    check_same_config,
    check_same_network,
    last_state,
    network_weights,
    read_state,
)


class Fitted(Frozen):
    """A finished run, and the best epoch's figures on the val and test parts."""

    checkpoint: Path
    run: Path
    metrics: dict[str, float | None]
    """None for what cannot be measured."""
    warnings: tuple[str, ...] = ()
    """Why the run may have learnt nothing."""
    exported: Path | None
    """The published artifact, where the configuration asked for one."""


def fit(config: Config) -> Fitted:
    """Train, and write the run's folder.

    Raises InputError before anything is written where configuration or data are at fault, ConfigError also when
    training diverges or the GPU's memory does not suffice, and after the run what `export_checkpoint` raises.
    """
    with quiet_lightning():
        plan = plan_run(config)
        run = RunFolder.create(config)
        with run.held(), plain_failures(run, config):
            run.save_config(config)
            plan.splits.save(run.splits, plan.task)
            return _finish(plan, run)


def resume(folder: Path) -> Fitted:
    """Go on with a run that was stopped, from the end of its last whole epoch; it ends with the same weights.

    Raises InputError as `fit` does, and when the run is finished or its data has changed.
    """
    run = RunFolder.of_run(folder)
    config = run.load_config()
    with run.held(), plain_failures(run, config), quiet_lightning():
        run.sweep()
        state = last_state(run)
        check_same_config(state, config, run)
        plan = plan_run(config, DataConfig(path=run.splits, test_ratio=0), begun=state is not None)
        if plan.splits.fingerprint != run.fingerprint():
            raise DataError(f"{run.splits}: the pictures have changed since the run was begun; begin a new one")
        check_same_network(state, plan.network, run)
        done = 0 if state is None else state["epoch"] + 1
        warn(f"{run.path}: goes on after epoch {done}" if done else f"{run.path}: no epoch is finished; begins anew")
        return _finish(plan, run)


def _finish(plan: Plan, run: RunFolder) -> Fitted:
    best, rows = _train(plan, run)
    warnings = warnings_of(rows, plan.task, plan.splits.val)
    publish("last", plan, run, warnings)
    confusions = Confusions(plan, run)
    for rank, state in reversed(list(enumerate(best, start=1))):
        load_weights(plan.network, network_weights(read_state(state)), origin=str(state))
        watch = confusions.add if rank == 1 else None
        metrics = publish("best" if rank == 1 else f"best-{rank}", plan, run, warnings, watch)
    confusions.draw()
    draw_predictions(plan, run)
    checkpoint, config = run.checkpoint("best"), plan.config
    exported = None if config.export is None else export_checkpoint(checkpoint, config.export, config.plugins)
    for warning in warnings:
        warn(f"warning: {warning}")
    return Fitted(checkpoint=checkpoint, run=run.path, metrics=metrics, warnings=warnings, exported=exported)


def _train(plan: Plan, run: RunFolder) -> tuple[list[Path], list[dict[str, float]]]:
    """Train in place to the last epoch, if that is not done.

    Returns the states of the best epochs, the best first, and the figures after each epoch.
    """
    config = plan.config
    best = BestEpochs(
        run.states,
        "best-{epoch}",
        monitor=f"val_{plan.task.monitor}",
        mode="max",
        save_top_k=config.keep_best,
        # Averaged weights are only in a state that has everything.
        save_weights_only=config.ema is None,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer, begun = _trainer(plan, run, best), run.last_state.is_file()
    done = _epochs_done(run.last_state, config.all_epochs) if begun else 0
    if done < config.all_epochs:
        train, val = _loaders(plan, done)
        draw_batches(plan, run, train)
        module = TrainingModule(plan.network, plan.task, plan.loss, config)
        _run(trainer, module, train, val, run.last_state if begun else None)
    # What was kept counts, also where it was another process that trained it.
    state = read_state(run.last_state)
    load_weights(plan.network, network_weights(state), origin=str(run.last_state))
    scores: dict[str, Tensor] = state["callbacks"][best.state_key]["best_k_models"]
    kept = [run.states / Path(path).name for path in sorted(scores, key=lambda path: -float(scores[path]))]
    # Lightning deletes a state that was beaten before it writes the last one, and a kill may come between.
    rows = state["callbacks"][History.__qualname__]["rows"]
    return [path for path in kept if path.is_file()] or [run.last_state], rows


def _epochs_done(last: Path, epochs: int) -> int:
    """So many of all epochs are behind this state: all of them also where patience ended."""
    state = read_state(last)
    stopped = any(isinstance(each, dict) and each.get("stopped_epoch") for each in state["callbacks"].values())
    return epochs if stopped else int(state["epoch"]) + 1


def _trainer(plan: Plan, run: RunFolder, best: ModelCheckpoint) -> Trainer:
    config, history = plan.config, History(run.metrics)
    # Without a monitored figure Lightning keeps the newest.
    last = ModelCheckpoint(run.states, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    shown = (history, Curves(plan, run, history), EpochLines())
    return Trainer(
        devices=1,
        precision=plan.precision,
        max_epochs=config.all_epochs,
        accumulate_grad_batches=config.accumulate,
        logger=False,
        plugins=[WholeFiles()],
        callbacks=[*_optional(config, f"val_{plan.task.monitor}"), *shown, *plan.callbacks, best, last],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _optional(config: Config, monitor: str) -> Iterator[Callback]:
    if config.ema is not None:
        yield WeightAveraging(avg_fn=_toward(1 - config.ema))
    if config.patience is not None:
        yield EarlyStopping(monitor, mode="max", patience=config.patience)


def _toward(share: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """An average that moves by a share of the difference: what is equal, such as a constant buffer, stays as it is."""
    return lambda average, current, _count: average + (current - average) * share


def _loaders(plan: Plan, epoch: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The train and the val part; `epoch` is the first to come."""
    config, splits, preprocess = plan.config, plan.splits, plan.network.spec.preprocess
    terms = (plan.task, splits.question, preprocess)
    classes = [next(iter(plan.task.classes(sample.truth)), "") for sample in splits.train]
    sampler = EpochSampler(classes, config.seed, config.data.per_class, epoch)
    train = Pictures(splits.train, *terms, augmentation(config.augment, preprocess.fill), config.seed)
    val = Pictures((*splits.base, *splits.val), *terms)
    return (
        loader(train, config.batch_size, config.workers, sampler),
        loader(val, config.batch_size, config.workers),
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


def _run(
    trainer: Trainer, module: TrainingModule, train: DataLoader[Any], val: DataLoader[Any], state: Path | None
) -> None:
    try:
        with _cores_beside(train.num_workers):
            trainer.fit(module, train, val, ckpt_path=state, weights_only=True)
    except SystemExit as stop:
        # Lightning turns both signals into exits: Ctrl+C into 1, the answer is no; SIGTERM into 0, success.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from stop
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(*stop.__context__.args) from stop
        raise ExternalError(f"a callback ended the training with exit code {stop.code}") from stop
    except RuntimeError as error:
        # A signal to all processes of a group ends the workers too, which may be noticed first.
        if trainer.received_sigterm:
            raise KeyboardInterrupt("stopped by SIGTERM") from error
        raise
