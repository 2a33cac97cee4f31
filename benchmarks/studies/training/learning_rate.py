"""Measure how much the suggestion of `train lr` varies from seed to seed, and how good it is.

Five seeds change the initial weights, the split and the batches. Lightning's own finder, with its defaults, sweeps the
same networks. Then the configuration is trained with the suggestion, with a tenth, and with ten times of it.
Exits with 1 if the largest of the five suggestions is more than 1.5 times the smallest, if Lightning's vary less, or if
another of the three rates reaches an accuracy on the test part that is more than two hundredths better.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from lightning.pytorch import Trainer
from lightning.pytorch.tuner.tuning import Tuner
from numpy.typing import NDArray

from benchmarks.studies.study import Result, command
from train.config.loading import Config, load_config
from train.engine.fit import fit
from train.engine.lr_finder.finder import PASSES, SweepOptions
from train.engine.lr_finder.suggestion import suggest
from train.engine.lr_finder.sweep import sweep_losses, sweep_rates
from train.engine.module import TrainingModule
from train.engine.plan import TrainingPlan, data_loaders, plan_run
from train.engine.progress import quiet_lightning

SEEDS = 5
LARGEST_SPREAD = 1.5
OURS, LIGHTNING = "train lr", "Lightning's lr_find"
OPTIMIZERS = {
    "adamw": "optimizer={name: adamw, weight_decay: 0.05}",
    "sgd": "optimizer={name: sgd, arguments: {momentum: 0.9}}",
}
FACTORS = (0.1, 1.0, 10.0)
TOLERANCE = 0.02


def lightning_suggestion(plan: TrainingPlan) -> float | None:
    """Return the suggestion of Lightning's own finder, with its defaults."""
    module = TrainingModule(copy.deepcopy(plan.network), plan.task, copy.deepcopy(plan.loss), plan.config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=-1,
            max_steps=100,
            logger=False,
            callbacks=[],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        found: Any = Tuner(trainer).lr_find(module, *data_loaders(plan, epoch=0), update_attr=False)
    suggestion: float | None = found.suggestion()
    return suggestion


def own_losses(plan: TrainingPlan) -> NDArray[np.float64]:
    """Return the losses of a search with its defaults, [passes, steps], with four digits."""
    losses = sweep_losses(plan, default_rates(), PASSES)
    return np.array([[float(f"{loss:.4g}") for loss in each] for each in losses])


def default_rates() -> NDArray[np.float64]:
    """Return the learning rates of a search with its defaults, [steps]."""
    options = SweepOptions()
    return sweep_rates(options.min_lr, options.max_lr, options.steps, options.scale)


def recorded_losses(record: Mapping[str, Any], optimizer: str) -> list[NDArray[np.float64]]:
    """Return the losses of each seed from a record of this study, as `own_losses` does."""
    return [np.array([[float(loss) for loss in line.split()] for line in seed]) for seed in record["losses"][optimizer]]


def accuracy(config: Config, rate: float) -> float | None:
    """Train with a learning rate, and return the accuracy on the test part; None if the training diverged."""
    optimizer = config.optimizer.model_copy(update={"lr": rate})
    with tempfile.TemporaryDirectory() as folder:
        value = fit(config.model_copy(update={"optimizer": optimizer, "output": Path(folder)})).metrics["test_accuracy"]
    return None if value is None else round(value, 4)


def measure(config: Annotated[Path, typer.Argument()] = Path("examples/digits.yaml"), epochs: int = 3) -> Result:
    """Compare the suggestions of five seeds, and train with their median."""
    found: dict[str, dict[str, list[float | None]]] = {}
    spread: dict[str, dict[str, float]] = {}
    accuracies: dict[str, dict[str, float | None]] = {}
    losses: dict[str, list[list[str]]] = {}
    checks: dict[str, bool] = {}
    with quiet_lightning():
        for name, optimizer in OPTIMIZERS.items():
            found[name], losses[name] = {OURS: [], LIGHTNING: []}, []
            for seed in range(SEEDS):
                plan = plan_run(load_config(config, [optimizer, f"seed={seed}"]))
                sweep = own_losses(plan)
                losses[name].append([" ".join(f"{loss:g}" for loss in each) for each in sweep])
                found[name][OURS].append(suggest(default_rates(), sweep).lr)
                found[name][LIGHTNING].append(lightning_suggestion(plan))
                print(seed, {finder: rates[-1] for finder, rates in found[name].items()}, flush=True)
            spread[name] = {kind: _spread(rates) for kind, rates in found[name].items()}
            best = float(median(rate for rate in found[name][OURS] if rate is not None))
            settings = load_config(config, [optimizer, f"epochs={epochs}", "export=null"])
            accuracies[name] = {f"{factor * best:.2g}": accuracy(settings, factor * best) for factor in FACTORS}
            ours, theirs = spread[name][OURS], spread[name][LIGHTNING]
            checks[f"{name}: the suggestions differ by a factor of {ours}, at most {LARGEST_SPREAD}"] = (
                ours <= LARGEST_SPREAD
            )
            checks[f"{name}: not more than Lightning's, {theirs}"] = ours <= theirs
            reached = [value or 0.0 for value in accuracies[name].values()]
            checks[f"{name}: accuracy {reached[1]} with the suggestion, at best {max(reached)} with the others"] = (
                reached[1] >= max(reached) - TOLERANCE
            )
    record = {
        "config": str(config),
        "epochs": epochs,
        "suggestions": found,
        "spread": spread,
        "test_accuracy": accuracies,
        "losses": losses,
    }
    return Result(record, checks, hidden=("losses",), packages=("torch", "lightning"))


def _spread(rates: list[float | None]) -> float:
    """The largest suggestion, as a multiple of the smallest; none counts as infinite."""
    known = [rate for rate in rates if rate is not None]
    return round(max(known) / min(known), 2) if len(known) == len(rates) else float("inf")


if __name__ == "__main__":
    command(measure)()
