"""Finds a learning rate for a run, and shows how: as an image, and in TensorBoard."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from train.config.sections import TensorBoardTracker
from train.engine.failures import translate_failures
from train.engine.lr_finder.suggestion import Scale, smooth_curve, suggest
from train.engine.lr_finder.sweep import sweep_losses, sweep_rates
from train.engine.pictures import warn_if_drawing_fails
from train.engine.plan import TrainingPlan
from train.engine.tracking.event_files import EventFileLogger
from train.reports.plots import draw_learning_rates
from tritonkit.spec import Frozen
from tritonkit.system.console import warn

PASSES = 3
"""Sweeps with different batches: their median is hardly changed by one unlucky batch."""
_EVENTS = "learning_rate"
"""The folder of the event file."""


class SweepOptions(Frozen):
    """The learning rates to try."""

    min_lr: float = 1e-6
    max_lr: float = 10.0
    steps: int = 100
    scale: Scale = "log"


class LearningRateSearch(Frozen):
    """A suggested learning rate, and the curve that led to it."""

    lr: float
    reason: str
    steepest: float
    """The rate at which the smoothed loss falls fastest."""
    lowest: float
    """The rate at which the smoothed loss is smallest."""
    scale: Scale
    passes: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """The median of the passes at each rate."""
    smooth_losses: tuple[float, ...]


def find_learning_rate(plan: TrainingPlan, options: SweepOptions) -> LearningRateSearch:
    """Sweep the learning rate on copies of the network, and suggest one. Raises ConfigError if the loss does not fall.

    The plan's network, its loss and the state of torch's random numbers stay as they are.
    """
    rates = sweep_rates(options.min_lr, options.max_lr, options.steps, options.scale)
    losses = sweep_losses(plan, rates, PASSES)
    suggestion, curve = suggest(rates, losses), smooth_curve(losses)
    return LearningRateSearch(
        lr=suggestion.lr,
        reason=suggestion.reason,
        steepest=suggestion.steepest,
        lowest=suggestion.lowest,
        scale=options.scale,
        passes=PASSES,
        rates=tuple(rates[: len(curve)].tolist()),
        losses=tuple(np.median(losses, axis=0)[: len(curve)].tolist()),
        smooth_losses=tuple(curve.tolist()),
    )


def with_learning_rate(plan: TrainingPlan) -> tuple[TrainingPlan, LearningRateSearch | None]:
    """Return the plan with a number in place of `optimizer.lr: auto`, and how it was found; None for a number.

    Raises what `find_learning_rate` raises.
    """
    optimizer = plan.config.optimizer
    if optimizer.lr != "auto":
        return plan, None
    with translate_failures(None, plan.config):
        search = find_learning_rate(plan, SweepOptions())
    warn(f"optimizer.lr: {search.lr:g} (auto: {search.reason})")
    resolved = optimizer.model_copy(update={"lr": search.lr})
    return replace(plan, config=plan.config.model_copy(update={"optimizer": resolved})), search


def draw_search(path: Path, search: LearningRateSearch, name: str) -> None:
    """Draw the curve of a search as a PNG. name: of the model."""
    with warn_if_drawing_fails(path):
        title = f"{name}: learning rate {search.lr:g}"
        is_log = search.scale == "log"
        draw_learning_rates(path, search.rates, search.losses, search.smooth_losses, search.lr, title, is_log)


def log_search(folder: Path, tracker: TensorBoardTracker, name: str, search: LearningRateSearch, image: Path) -> Path:
    """Write the curve for TensorBoard in place of the last one: scalars by step, and the image.

    folder: that of all runs of the model. image: left out if it does not exist.

    Returns the folder of the event file.
    """
    parent = folder if tracker.folder is None else tracker.folder / name
    with suppress(OSError):  # the logger warns of a folder that cannot be written
        for old in (parent / _EVENTS).glob("events.out.tfevents.*"):
            old.unlink()  # TensorBoard would join both curves
    logger = EventFileLogger(parent, name="", version=_EVENTS)
    for step, values in enumerate(zip(search.rates, search.losses, search.smooth_losses, strict=True)):
        logger.log_metrics(dict(zip(("lr", "loss", "smoothed_loss"), values, strict=True)), step)
    logger.add_image("learning_rate", image, 0)
    logger.finalize("success")
    return Path(logger.log_dir)
