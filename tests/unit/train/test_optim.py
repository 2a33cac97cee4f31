"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tests.errors import raises
from tests.train_configs import tiny_config
from train.config.loading import Config
from train.config.sections import OptimizerConfig, SchedulerConfig
from train.engine.optim import SHAPES, learning_rate_factor, make_optimizer, make_schedule
from tritonkit.errors import ConfigError


def rates(steps: int, config: Config) -> list[float]:
    """Return the learning rate of each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.optimizer.lr, momentum=0.9)
    schedule = make_schedule(optimizer, config, steps)
    learning_rates = []
    for _ in range(steps):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return learning_rates


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("adamw", {"betas": [0.8, 0.9]}, "AdamW"),
        ("sgd", {"momentum": 0.8, "nesterov": True}, "SGD"),
        ("lion", {}, "Lion"),
        ("lamb", {}, "Lamb"),
    ],
)
def test_optimizer_learns_when_named(name: str, arguments: dict[str, Any], kind: str) -> None:
    module = network()
    optimizer = make_optimizer(module, OptimizerConfig(name=name, lr=0.01, arguments=arguments))
    assert type(optimizer).__name__ == kind
    assert all(
        optimizer.param_groups[0][key] in (expected, tuple(expected) if isinstance(expected, list) else expected)
        for key, expected in arguments.items()
    )
    images, targets = torch.randn(16, 3, 8, 8), torch.randint(2, (16,))
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(module(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_norms_and_biases_are_not_decayed_when_the_rest_is() -> None:
    module = network()
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(module, OptimizerConfig(weight_decay=0.3)).param_groups
        for parameter in group["params"]
    }
    assert len(decays) == len(list(module.parameters()))
    for parameter in module.parameters():
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0)


def factors(steps: int, **how: Any) -> list[float]:
    return [learning_rate_factor(step, steps, SchedulerConfig(**how)) for step in range(steps + 1)]


@pytest.mark.parametrize("name", SHAPES)
def test_learning_rate_rises_in_a_line_when_warming_up(name: str) -> None:
    found = factors(100, name=name, warmup=0.1)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10] == 1.0
    assert max(found) == 1.0


@pytest.mark.parametrize("name", SHAPES)
def test_learning_rate_starts_at_its_full_value_when_nothing_warms_up(name: str) -> None:
    assert factors(100, name=name, warmup=0)[0] == 1.0


def test_learning_rate_follows_the_shape_of_its_name_when_warm() -> None:
    cosine = factors(100, name="cosine", warmup=0)
    assert (cosine[50], cosine[100]) == (pytest.approx(0.5), pytest.approx(0))
    assert cosine[25] == pytest.approx(0.853553, abs=1e-5)
    assert factors(100, name="linear", warmup=0)[40] == pytest.approx(0.6)
    assert set(factors(100, name="constant", warmup=0)) == {1.0}
    exponential = factors(100, name="exponential", warmup=0, gamma=0.01)
    assert (exponential[50], exponential[100]) == (pytest.approx(0.1), pytest.approx(0.01))
    # Shares are of what comes after the warm-up.
    assert factors(110, name="cosine", warmup=10 / 110)[60] == pytest.approx(0.5)


def test_learning_rate_falls_at_the_milestones_when_there_are_some() -> None:
    found = factors(100, name="multistep", warmup=0, milestones=[0.5, 0.8], gamma=0.1)
    assert found[:50] == [1.0] * 50
    assert found[50:80] == pytest.approx([0.1] * 30)
    assert found[80:] == pytest.approx([0.01] * 21)


def test_learning_rate_ends_at_nothing_when_the_last_step_is_taken() -> None:
    found = rates(40, tiny_config(optimizer={"lr": 0.2}, scheduler={"warmup": 0.1}))
    assert max(found) == pytest.approx(0.2)
    assert found.index(max(found)) == 4
    assert found[0] == pytest.approx(0.2 / 5)
    assert 0 < found[-1] < 0.01
    assert found[4:] == sorted(found[4:], reverse=True)


def test_each_stage_has_a_schedule_of_its_own_when_there_are_two() -> None:
    two = tiny_config(optimizer={"lr": 0.1}, scheduler={"warmup": 0}, frozen_epochs=1, epochs=3, frozen_lr=0.5)
    found = rates(40, two)
    alone = rates(10, tiny_config(optimizer={"lr": 0.5}, scheduler={"warmup": 0}))
    after = rates(30, tiny_config(optimizer={"lr": 0.1}, scheduler={"warmup": 0}))
    assert found == pytest.approx([*alone, *after])
    assert rates(40, two.model_copy(update={"frozen_lr": None}))[0] == pytest.approx(0.1)


def test_one_cycle_spans_the_run_when_named_by_its_class() -> None:
    scheduler = {"name": "OneCycleLR", "arguments": {"max_lr": 0.4, "pct_start": 0.25, "cycle_momentum": False}}
    found = rates(40, tiny_config(optimizer={"lr": 0.1}, scheduler=scheduler))
    assert found[0] == pytest.approx(0.4 / 25)
    assert max(found) == pytest.approx(0.4)
    assert found.index(max(found)) == 9
    assert found[-1] == pytest.approx(0.4 / 25 / 1e4)


def test_class_of_torch_has_its_arguments_when_named() -> None:
    scheduler = {"name": "StepLR", "arguments": {"step_size": 10, "gamma": 0.5}}
    found = rates(30, tiny_config(optimizer={"lr": 0.8}, scheduler=scheduler))
    assert [found[step] for step in (0, 9, 10, 20)] == pytest.approx([0.8, 0.8, 0.4, 0.2])
    assert rates(30, tiny_config(scheduler={"name": "CosineAnnealingLR"}))[-1] < 1e-5


@pytest.mark.parametrize(
    "name", ["Optimizer", "LRScheduler", "ReduceLROnPlateau", "LambdaLR", "SequentialLR", "zigzag"]
)
def test_schedule_is_refused_when_it_cannot_be_made_from_a_configuration(name: str) -> None:
    optimizer: Optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)
    with pytest.raises(ConfigError) as caught:
        make_schedule(optimizer, tiny_config(scheduler={"name": name}), 10)
    assert caught.value.code in {"config.unknown_scheduler", "config.scheduler_arguments"}
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "code", "expected"),
    [
        ("adam-w", {}, "config.unknown_optimizer", "adamw?"),
        ("zzz", {}, "config.unknown_optimizer", "timm.optim.list_optimizers"),
        ("sgd", {"speed": 1}, "config.optimizer_arguments", "{'speed': 1}"),
        ("adamw", {"betas": [1, 2]}, "config.optimizer_arguments", "Invalid beta"),
        ("adamw", {"betas": 3}, "config.optimizer_arguments", "adamw"),
    ],
)
def test_optimizer_is_refused_with_its_reason_when_it_cannot_be_made(
    name: str, arguments: dict[str, Any], code: str, expected: str
) -> None:
    with raises(ConfigError, code, expected):
        make_optimizer(nn.Linear(1, 1), OptimizerConfig(name=name, arguments=arguments))
