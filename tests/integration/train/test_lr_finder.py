"""The learning-rate finder: `train lr`, and `optimizer.lr: auto` in a run."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.config.loading import load_config
from train.config.sections import TensorBoardTracker
from train.engine.fit import fit, resume
from train.engine.lr_finder.finder import LearningRateSearch, SweepOptions, find_learning_rate, log_search
from train.engine.plan import plan_run
from train.engine.run_folder import RunFolder


@pytest.fixture(scope="module")
def config(copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures each of three digits."""
    root = tmp_path_factory.mktemp("lr")
    return write_config(root / "config.yaml", copy_digits(root / "data", count=30), batch_size=16)


def test_network_and_random_numbers_stay_as_they_are_when_all_settings_of_a_training_are_used(config: Path) -> None:
    changes = [
        "precision=bf16-mixed",
        "frozen_epochs=1",
        "devices=2",
        "gradient_clip=1.0",
        "augment.mixup=0.2",
        "loss={name: cross_entropy, class_weights: balanced}",
    ]
    plan = plan_run(load_config(config, changes))
    before, state = copy.deepcopy(plan.network.state_dict()), torch.get_rng_state()
    found = find_learning_rate(plan, SweepOptions(min_lr=1e-4, max_lr=1, steps=20))
    assert found.lr > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in plan.network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in plan.network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_run_stores_the_number_and_trains_as_with_it_when_the_rate_is_auto(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fitted = fit(load_config(config, ["optimizer.lr=auto"]))
    stored = load_config(fitted.run / "config.yaml").optimizer.lr
    assert isinstance(stored, float)
    assert f"optimizer.lr: {stored:g} (auto: " in capfd.readouterr().err
    with Image.open(fitted.run / "learning_rate.png") as plot:
        assert plot.width > 500
    again = fit(load_config(config, [f"optimizer.lr={stored}"]))
    assert again.checkpoint.read_bytes()[-4096:] == fitted.checkpoint.read_bytes()[-4096:]

    stopped = RunFolder(again.run)  # before its first epoch, and then edited
    again.checkpoint.unlink()
    shutil.rmtree(stopped.states)
    stopped.save_config(load_config(stopped.config_file, ["optimizer.lr=auto"]))
    assert resume(stopped.path).checkpoint == again.checkpoint
    assert stopped.load_config().optimizer.lr == stored


def test_command_writes_the_curve_as_an_image_and_for_tensorboard(
    config: Path, tmp_path: Path, command: Command
) -> None:
    options = ("--scale", "linear", "--steps", "60", "--output", tmp_path / "lr.png", "--json")
    result = command("train", "lr", config, f"output={tmp_path / 'runs'}", "trackers=[tensorboard]", *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert 1e-4 < document["lr"] < 0.3
    assert len(document["rates"]) == len(document["losses"]) == len(document["smooth_losses"]) > 10
    assert np.allclose(np.diff(document["rates"]), (0.3 - 1e-4) / 59)
    with Image.open(tmp_path / "lr.png") as plot:
        assert (plot.format, document["plot"]) == ("PNG", str(tmp_path / "lr.png"))
    events = EventAccumulator(document["tensorboard"]).Reload()
    assert [event.value for event in events.Scalars("smoothed_loss")] == pytest.approx(document["smooth_losses"])
    assert events.Tags()["images"] == ["learning_rate"]
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["learning_rate"]  # and no run


def test_curve_for_tensorboard_replaces_the_last_one(tmp_path: Path) -> None:
    curve = {"rates": (0.1, 0.2), "losses": (2.0, 1.0), "smooth_losses": (2.0, 1.0)}
    search = LearningRateSearch(lr=0.1, reason="", steepest=0.1, lowest=0.2, scale="log", passes=1, **curve)
    for _ in range(2):
        events = log_search(tmp_path, TensorBoardTracker(), "tiny", search, tmp_path / "not drawn.png")
    assert len(list(events.glob("events.*"))) == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--min-lr", "1e-9", "--max-lr", "1e-8", "--steps", "20"), "lr.no_descent"),
        (("--min-lr", "1", "--max-lr", "0.1"), "option.lr_range"),
        (("--output", "curve.svg"), "output.not_png"),
    ],
)
def test_command_is_refused_when_it_can_find_nothing(
    config: Path, tmp_path: Path, command: Command, options: tuple[str, ...], code: str
) -> None:
    result = command("train", "lr", config, f"output={tmp_path / 'runs'}", *options, "--json")
    assert (result.exit_code, error_codes(result)) == (2, {code})
    assert not (tmp_path / "runs").exists()
