"""Prunes a trained model, trains it further, and measures what it lost and what it gained."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.config.loading import Config
from train.config.pruning_functions import CHANNELS
from train.data import SPLITS
from train.engine.fit import FitResult
from train.evaluate import evaluate
from train.fine_tuning import fine_tune, fine_tuning_config, local_run_checkpoint
from train.served_rate import check_commands, served_rates
from tritonkit.checkpoint import read_spec
from tritonkit.errors import InputError, TritonkitError
from tritonkit.evaluation.evaluate import MetricValues
from tritonkit.networks.network import load_network
from tritonkit.spec import Frozen
from tritonkit.system.console import progress

BEFORE, AFTER = "before", "after"
MIN_GAIN = 1.05
"""A smaller ratio of served images per second is not called a gain."""


@dataclass(frozen=True)
class CompressOptions:
    """The options of `train compress`."""

    checkpoint: Path | str
    sparsity: float = 0.5
    method: str = CHANNELS
    layers: tuple[str, ...] = ()
    epochs: int | None = None
    """Epochs of training after the pruning; default: half of the run's."""
    data: str | None = None
    output: Path | None = None
    serve: bool = True
    rounds: int = 3
    window_s: float = 2.0
    overrides: Sequence[str] = field(default_factory=tuple)


class ModelMeasures(Frozen):
    """What was measured of a model."""

    checkpoint: Path
    metrics: MetricValues
    file_bytes: int
    parameters: int
    zeros: float
    """The share of the parameters that are zero."""
    images_per_s: tuple[float, ...] = ()
    """Served images per second in each round; empty if not served."""


class CompressResult(Frozen):
    """A compressed model, next to the one it was made from."""

    checkpoint: Path
    run: Path
    method: str
    sparsity: float
    measured_on: str
    before: ModelMeasures
    after: ModelMeasures
    speed_up: float | None
    """Served images per second after by before, the median of the rounds; None if not served."""
    conclusion: str
    warnings: tuple[str, ...]


def compress(options: CompressOptions) -> CompressResult:
    """Prune a checkpoint, train it further with its own configuration in a new run, and measure both.

    Raises InputError before anything is trained, whatever `fit` raises, and the errors of `served_rates`.
    """
    checkpoint = local_run_checkpoint(options.checkpoint)
    config = compression_config(options, checkpoint)
    if options.serve:
        check_commands()
    result = fine_tune(checkpoint, config)
    rates: dict[str, list[float]] = {BEFORE: [], AFTER: []}
    if options.serve:
        checkpoints = {BEFORE: checkpoint, AFTER: result.checkpoint}
        try:
            with progress("measuring both models") as report:
                rates = served_rates(checkpoints, options.rounds, options.window_s, config.plugins, report)
        except TritonkitError as error:
            raise type(error)(f"{result.checkpoint}: compressed, but not measured: {error}", code=error.code) from error
    return _result(options, checkpoint, result, rates)


def compression_config(options: CompressOptions, checkpoint: Path) -> Config:
    """Return the configuration of the training after the pruning. checkpoint: the local one. Raises InputError."""
    if not 0 < options.sparsity < 1:
        raise InputError(
            f"--sparsity {options.sparsity}: expected a share between 0 and 1, without both: "
            "0 prunes nothing, and 1 leaves nothing",
            code="option.sparsity",
        )
    pruning = {"function": options.method, "amount": options.sparsity, "layers": list(options.layers), "when": "start"}
    trained = read_spec(checkpoint).lineage.config.get("epochs")
    half = max(1, round(trained / 2)) if isinstance(trained, int) else 1
    changes: dict[str, Any] = {"pruning": [pruning], "epochs": options.epochs or half}
    if options.output is not None:
        changes["output"] = str(options.output)
    return fine_tuning_config(checkpoint, str(options.checkpoint), options.data, changes, options.overrides)


def _result(
    options: CompressOptions, original: Path, result: FitResult, rates: dict[str, list[float]]
) -> CompressResult:
    splits = result.run / SPLITS
    measures, measured_on = {}, ""
    for name, checkpoint in ((BEFORE, original), (AFTER, result.checkpoint)):
        evaluation = evaluate(checkpoint, splits)
        measured_on = f"{evaluation.images} images of {evaluation.data} ({evaluation.part})"
        parameters = [parameter.detach() for parameter in load_network(checkpoint).parameters()]
        count = sum(parameter.numel() for parameter in parameters)
        measures[name] = ModelMeasures(
            checkpoint=checkpoint,
            metrics=evaluation.metrics,
            file_bytes=checkpoint.stat().st_size,
            parameters=count,
            zeros=round(sum(int((parameter == 0).sum()) for parameter in parameters) / count, 4),
            images_per_s=tuple(rates[name]),
        )
    ratios = [after / before for before, after in zip(rates[BEFORE], rates[AFTER], strict=True)]
    speed_up = round(statistics.median(ratios), 3) if ratios else None
    return CompressResult(
        checkpoint=result.checkpoint,
        run=result.run,
        method=options.method,
        sparsity=options.sparsity,
        measured_on=measured_on,
        before=measures[BEFORE],
        after=measures[AFTER],
        speed_up=speed_up,
        conclusion=conclusion(options.method, speed_up, rates[BEFORE], rates[AFTER]),
        warnings=result.warnings,
    )


def conclusion(method: str, speed_up: float | None, before: Sequence[float], after: Sequence[float]) -> str:
    """Say in plain words what the measured rates mean; rates that overlap between the models count as equal."""
    if speed_up is None:
        return "Not served, so no images per second were measured."
    if min(after) > max(before) and speed_up >= MIN_GAIN:
        return f"Triton serves {speed_up:.2f} times the images per second."
    if method == CHANNELS:
        return (
            f"Triton serves {speed_up:.2f} times the images per second, which is no clear gain: in a small network, "
            "requests take longer than the network itself. Measure longer with --rounds and --window-s, or prune more."
        )
    return (
        f"Triton serves {speed_up:.2f} times the images per second, which is no clear gain: zeros bring no speed "
        f"without a runtime that skips them, and Triton's calculate with them. --method {CHANNELS} brings speed."
    )
