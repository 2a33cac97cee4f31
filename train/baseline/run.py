"""Fits logistic regression on the features of a frozen backbone, and writes a run folder as a training does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from train.baseline.features import frozen_features, linear_heads
from train.baseline.logistic import LinearLayer, fit_linear_layers
from train.config.loading import Config
from train.data.dataset import ImageDataset, make_loader
from train.engine.failures import translate_failures
from train.engine.fit import FitResult, export_and_report
from train.engine.learning_check import learning_warnings
from train.engine.pictures import ConfusionCounter, draw_predictions
from train.engine.plan import TrainingPlan, plan_run
from train.engine.progress import quiet_lightning
from train.engine.publish import publish
from train.engine.run_folder import RunFolder
from train.engine.tracking.trackers import open_trackers
from train.tasks import TrainingTask
from train.tasks.losses import WeightedSum
from tritonkit.errors import ConfigError
from tritonkit.evaluation.samples.sample import Sample, Truth
from tritonkit.spec import TaskSpec
from tritonkit.system.console import warn
from tritonkit.tasks import task_for

TASKS = ("multiclass", "multilabel")
_RANDOM_BACKBONE = (
    "the backbone has random weights, so its features say little about the images; set model.pretrained=true or "
    "model.weights=FILE"
)


def baseline(config: Config) -> FitResult:
    """Fit a baseline, and write its run folder with a checkpoint.

    Keys of the optimisation and of the augmentation are not used. Raises InputError, before anything is written, for
    problems of configuration or data; after the run, whatever `export_checkpoint` raises.
    """
    _check_tasks(config)
    _check_keys(config)
    # `auto` is measured with training steps, and there are none here.
    optimizer = config.optimizer.model_copy(update={"lr": config.optimizer.learning_rate})
    config = config.model_copy(update={"batch_size": config.images_per_batch, "optimizer": optimizer})
    # The trackers are closed last, so that they send the export and the report too.
    with ExitStack() as opened:
        with quiet_lightning(), translate_failures(None, config):
            plan = plan_run(config)
            trackers = opened.enter_context(open_trackers(config))
            rows = _fit_heads(plan)
            warnings = learning_warnings([rows], plan.task, plan.splits.val)
            if not config.model.pretrained and config.model.weights is None:
                warnings = (_RANDOM_BACKBONE, *warnings)
            run = RunFolder.create(config)
            confusions = ConfusionCounter(plan, run)
            metrics = publish("best", plan, run, warnings, confusions.add)
            confusions.draw()
            draw_predictions(plan, run)
            # These two come last: a folder without a checkpoint must not look like a training that can be resumed.
            run.save_config(config)
            plan.splits.save(run.splits, plan.task)
            trackers.start(run)
            trackers.finish(run, metrics, plan.task.monitor)
        return export_and_report(run, config, metrics, warnings)


def _check_tasks(config: Config) -> None:
    """Raise ConfigError for a task that has no logistic regression."""
    tasks = {f"heads.{name}.task": head.task for name, head in config.heads.items()} or {"task": config.task}
    wrong = [f"{key} is {task}" for key, task in tasks.items() if task not in TASKS]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: a baseline is a logistic regression, for {' and '.join(TASKS)}, or heads of these; "
            "use train fit",
            code="baseline.task",
        )


def _check_keys(config: Config) -> None:
    """Raise ConfigError for keys that a user would expect to change the result or the time, and which do neither."""
    ignored = {
        "devices": config.devices not in (1, "auto"),
        "num_nodes": config.num_nodes > 1,
        "pruning": bool(config.pruning),
        "quantization": config.quantization is not None,
    }
    if keys := ", ".join(name for name, is_set in ignored.items() if is_set):
        raise ConfigError(
            f"{keys}: a baseline is fitted by one process, and nothing in it is pruned or quantized; leave "
            "these keys out, or use train fit",
            code="baseline.keys",
        )


def _fit_heads(plan: TrainingPlan) -> dict[str, float]:
    """Fit all heads of the plan's network; return the metrics on val, as a row of a training's history."""
    network, splits = plan.network, plan.splits
    layers = linear_heads(network)
    train, val = (_features(plan, layers, part, name) for name, part in (("train", splits.train), ("val", splits.val)))
    row: dict[str, float] = {}
    for name, layer in layers.items():
        task, spec = _head(plan, name)
        train_truths, val_truths = ([_truth(s, name) for s in part] for part in (splits.train, splits.val))
        targets, val_targets = (_targets(task, truths, plan, spec) for truths in (train_truths, val_truths))
        candidates = fit_linear_layers(train, targets.numpy(), _class_weights(task, spec, train_truths))
        measured = [(candidate, _measure(candidate, val, val_targets, task, spec)) for candidate in candidates]
        # Equal values: the strongest regularisation.
        best, metrics = max(measured, key=lambda pair: pair[1][task.monitor])
        _show_choice(f"{name}: " if name else "", task.monitor, measured, best)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(best.weight))
            layer.bias.copy_(torch.from_numpy(best.bias))
        row |= {f"val_{name}{'.' * bool(name)}{metric}": value for metric, value in metrics.items()}
    return row


def _features(
    plan: TrainingPlan, layers: Mapping[str, nn.Linear], samples: Sequence[Sample], part: str
) -> NDArray[np.float32]:
    config = plan.config
    images = ImageDataset(samples, plan.task, plan.splits.task_spec, plan.network.spec.preprocess)
    loader = make_loader(images, config.images_per_batch, config.workers)
    return frozen_features(plan.network, layers, loader, plan.precision, f"features of {part}")


def _head(plan: TrainingPlan, name: str) -> tuple[TrainingTask, TaskSpec]:
    if not name:
        return plan.task, plan.splits.task_spec
    return plan.task.heads[name], plan.splits.task_spec.heads[name]  # type: ignore[attr-defined] # HeadsTraining


def _truth(sample: Sample, head: str) -> Truth:
    return sample.truth[head] if head else sample.truth


def _targets(task: TrainingTask, truths: Sequence[Truth], plan: TrainingPlan, spec: TaskSpec) -> Tensor:
    targets: Tensor = default_collate(
        [task.target(truth, False, plan.network.spec.preprocess, spec) for truth in truths]
    )
    return targets


def _class_weights(task: TrainingTask, spec: TaskSpec, truths: Sequence[Truth]) -> list[float] | None:
    """Return the class weights of the head's loss, in the order of the labels."""
    losses = [each for each in task.loss(spec, truths).modules() if isinstance(each, WeightedSum)]
    weights = [weights for loss in losses for weights in loss.class_weights.values()]
    return [weights[0][label] for label in spec.labels] if weights else None


def _measure(
    layer: LinearLayer, features: NDArray[np.float32], targets: Tensor, task: TrainingTask, spec: TaskSpec
) -> dict[str, float]:
    last = task_for(spec, task.output)
    logits = torch.from_numpy(features @ layer.weight.T + layer.bias)
    measures = task.metrics(spec, detailed=False)
    measures.update({last.output: last.last_layer()(logits)[0]}, targets)
    return {name: float(value) for name, value in measures.compute().items() if not value.isnan()}


def _show_choice(head: str, monitor: str, measured: Sequence[tuple[LinearLayer, Any]], best: LinearLayer) -> None:
    tried = ", ".join(f"{layer.regularisation:g}: {metrics[monitor]:.4f}" for layer, metrics in measured)
    warn(f"{head}val_{monitor} by regularisation C: {tried}; chosen: {best.regularisation:g}")
