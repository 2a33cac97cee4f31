"""The learning-rate finder: `train lr`, and `optimizer.lr: auto` in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.errors import raises
from tests.fixture_types import Command
from train.config.loading import Config, load_config
from train.engine.fit import FitResult, fit
from train.engine.lr_finder.finder import LearningRateSearch, SweepOptions, find_learning_rate
from train.engine.plan import TrainingPlan, plan_run
from tritonkit.checkpoint import read_weights
from tritonkit.errors import ConfigError

SEEDS = range(5)
SPREAD = 1.5
"""The largest of five suggestions, as a multiple of the smallest."""


@pytest.fixture(scope="module")
def config(
    copy_digits: Callable[..., Path], write_config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Forty pictures each of four digits."""
    root = tmp_path_factory.mktemp("lr")
    return write_config(root / "config.yaml", copy_digits(root / "data", labels="0147", count=40))


@pytest.fixture(scope="module")
def searches(config: Path) -> list[LearningRateSearch]:
    """The searches of five seeds: other weights, other splits, other batches."""
    return [find_learning_rate(plan_run(load_config(config, [f"seed={seed}"])), SweepOptions()) for seed in SEEDS]


def test_suggestion_is_stable_when_the_seed_changes(searches: list[LearningRateSearch]) -> None:
    rates = [search.lr for search in searches]
    assert max(rates) <= SPREAD * min(rates), rates
    assert all(1e-4 < rate < 2e-2 for rate in rates)  # AdamW learns digits with these
