"""The suggestion of a learning rate from the losses of a sweep."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.studies.training.learning_rate import (
    LARGEST_SPREAD,
    OURS,
    SEEDS,
    default_rates,
    recorded_losses,
)
from tests.errors import raises
from tests.programs import ROOT
from tests.train_configs import tiny_config
from train.engine.lr_finder.suggestion import smooth_curve, suggest
from train.engine.lr_finder.sweep import sweep_rates
from tritonkit.errors import ConfigError

RECORD = ROOT / "benchmarks" / "results" / "learning_rate.json"
RATES = sweep_rates(1e-6, 10, 100, "log")


def losses_of(
    descent: float, lowest: float, noise: float = 0.05, passes: int = 3, seed: int = 0
) -> NDArray[np.float64]:
    """Losses that fall from 2.3 to 0.8, fastest at `descent`, rise beyond `lowest`, and end in a divergence."""
    draw = np.random.default_rng(seed)
    position = np.log10(RATES)
    fall = 1.5 / (1 + np.exp(-4 * (position - math.log10(descent))))
    rise = np.exp(6 * (position - math.log10(lowest) - 0.5))
    losses = 2.3 - fall + rise + noise * draw.standard_normal((passes, len(RATES)))
    return np.where(losses > 8, np.inf, losses)


def test_suggestion_is_the_steepest_descent_when_the_loss_is_smallest_far_above() -> None:
    found = suggest(RATES, losses_of(descent=1e-3, lowest=1.0))
    assert found.lr == float(f"{found.steepest:.1e}")
    assert found.lr == pytest.approx(1e-3, rel=0.35)
    assert found.lowest >= 4 * found.lr


def test_suggestion_is_a_quarter_of_the_smallest_loss_when_that_is_near() -> None:
    found = suggest(RATES, losses_of(descent=1e-2, lowest=3e-2))
    assert found.lr == pytest.approx(found.lowest / 4, rel=0.05)
    assert found.steepest > found.lr


def test_suggestion_hardly_varies_when_the_noise_does() -> None:
    rates = [suggest(RATES, losses_of(1e-2, 3e-2, noise=0.15, seed=seed)).lr for seed in range(20)]
    assert max(rates) <= 1.6 * min(rates)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_suggestion_is_stable_when_five_real_sweeps_differ_in_weights_split_and_batches(optimizer: str) -> None:
    record = json.loads(RECORD.read_text())
    rates = [suggest(default_rates(), losses).lr for losses in recorded_losses(record, optimizer)]
    assert rates == record["suggestions"][optimizer][OURS]
    assert len(rates) == SEEDS
    assert max(rates) <= LARGEST_SPREAD * min(rates)


def test_reason_says_so_when_the_loss_still_falls_at_the_largest_rate() -> None:
    losses = losses_of(descent=1e-2, lowest=1e6)
    found = suggest(RATES[:70], losses[:, :70])
    assert "larger --max-lr" in found.reason
    assert found.lowest == RATES[69]


def test_steepest_descent_is_found_when_the_scale_is_linear() -> None:
    rates = sweep_rates(1e-4, 0.3, 100, "linear")
    losses = np.broadcast_to(2.3 - 1.5 / (1 + np.exp(-200 * (rates - 0.02))), (3, 100))
    found = suggest(rates, losses)
    assert found.steepest == pytest.approx(0.02, abs=0.008)


@pytest.mark.parametrize("losses", [np.full(100, 2.3), np.linspace(2, 30, 100)], ids=["flat", "rising"])
def test_error_gives_advice_when_the_loss_never_falls(losses: NDArray[np.float64]) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 100))
    with raises(ConfigError, "lr.no_descent", "--max-lr"):
        suggest(RATES, losses + noise)


def test_error_says_so_when_the_training_diverges_at_once() -> None:
    losses = np.full((3, 100), np.inf)
    losses[:, :2] = 2.3
    with raises(ConfigError, "lr.diverged", "--min-lr"):
        suggest(RATES, losses)


def test_curve_ends_where_most_passes_have_diverged() -> None:
    losses = np.full((3, 100), 2.0)
    losses[0, 40:] = losses[1, 60:] = np.inf
    assert len(smooth_curve(losses)) == 60


def test_automatic_rate_is_accepted_and_stands_for_the_default_until_it_is_found() -> None:
    assert tiny_config(optimizer={"lr": "auto"}).optimizer.learning_rate == 1e-3
    assert tiny_config(optimizer={"lr": "2e-4"}).optimizer.lr == 2e-4
    assert tiny_config(optimizer={"lr": 0.1}).model_dump(mode="json")["optimizer"]["lr"] == 0.1
