"""Losses by name, and weighted sums of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F

from tests.errors import raises
from tests.train_configs import tiny_config
from train.config.loading import Config
from train.config.sections import LossTerm
from train.tasks import training_task
from train.tasks.losses import (
    METRIC_LOSS_NAMES,
    MULTICLASS,
    MULTILABEL,
    SEGMENTATION,
    ForegroundCrossEntropy,
    OneVsRestCrossEntropy,
    embedding_losses,
)
from tritonkit.errors import ConfigError
from tritonkit.plugins import register
from tritonkit.spec import TaskSpec

LABELS = ("a", "b", "c")
IGNORED = 255
TABLES = {"multiclass": MULTICLASS, "multilabel": MULTILABEL, "segmentation": SEGMENTATION}


def loss_of(task: str, loss: Any, labels: tuple[str, ...] = LABELS) -> nn.Module:
    """Create the loss of a configuration."""
    config = tiny_config(task=task, loss=loss)
    if task == "embedding":
        return embedding_losses(config.loss, "ArcFaceLoss", classes=4, size=8)
    return training_task(config).loss(TaskSpec(task=task, labels=labels), [])


def batch(task: str, labels: int = 3) -> tuple[Tensor, Tensor]:
    """Create random logits with gradients, and targets."""
    torch.manual_seed(0)
    logits, targets = {
        "multiclass": lambda: (torch.randn(6, labels), torch.randint(labels, (6,))),
        "multilabel": lambda: (torch.randn(6, labels), torch.randint(2, (6, labels)).float()),
        "segmentation": lambda: (torch.randn(2, labels, 8, 8), torch.randint(labels, (2, 8, 8), dtype=torch.uint8)),
        "embedding": lambda: (torch.randn(12, 8), torch.arange(12) % 4),
    }[task]()
    if task == "segmentation":
        targets[:, :2] = IGNORED
    return logits.requires_grad_(), targets


def value(loss: nn.Module, task: str, labels: int = 3) -> float:
    logits, targets = batch(task, labels)
    result = loss(logits, targets)
    result.backward()
    assert result.shape == ()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    return float(result.item())


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, table in TABLES.items() for name in table])
def test_loss_is_finite_and_teaches_when_named(task: str, name: str) -> None:
    labels = LABELS[:2] if (task, name) == ("segmentation", "bce") else LABELS
    assert 0 < value(loss_of(task, name, labels), task, len(labels)) < 10


@pytest.mark.parametrize(
    "name",
    [
        *METRIC_LOSS_NAMES,
        "ArcFaceLoss",
        "ProxyAnchorLoss",
        "CosFaceLoss",
        "NormalizedSoftmaxLoss",
        "NTXentLoss",
        "CircleLoss",
        "MultiSimilarityLoss",
    ],
)
def test_embedding_loss_is_finite_and_teaches_when_named(name: str) -> None:
    assert math.isfinite(value(loss_of("embedding", name), "embedding"))


@pytest.mark.parametrize(
    "miner", ["MultiSimilarityMiner", "BatchHardMiner", {"name": "TripletMarginMiner", "margin": 0.05}]
)
def test_embedding_loss_learns_from_fewer_pairs_when_mined(miner: Any) -> None:
    loss = loss_of("embedding", {"name": "TripletMarginLoss", "margin": 0.2, "miner": miner})
    assert value(loss, "embedding") != value(
        loss_of("embedding", {"name": "TripletMarginLoss", "margin": 0.2}), "embedding"
    )


def test_short_names_are_the_classes_they_stand_for_when_made() -> None:
    for short, name in METRIC_LOSS_NAMES.items():
        kinds = [type(loss_of("embedding", each).losses[0].loss) for each in (short, name)]  # type: ignore[index,union-attr]
        assert kinds[0] is kinds[1]
        assert kinds[0].__name__ == name


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation", "embedding"])
def test_weighted_sum_is_the_sum_of_its_parts_when_weighted(task: str) -> None:
    first, second = {"embedding": ("TripletMarginLoss", "ContrastiveLoss")}.get(task, tuple(TABLES.get(task, {}))[:2])
    parts = [value(loss_of(task, name), task) for name in (first, second)]
    whole = loss_of(task, [{"name": first, "weight": 0.25}, {"name": second, "weight": 3}])
    assert value(whole, task) == pytest.approx(0.25 * parts[0] + 3 * parts[1], rel=1e-5)


def test_arguments_reach_the_loss_when_written_next_to_its_name() -> None:
    logits, targets = batch("multiclass")
    smooth = loss_of("multiclass", {"name": "cross_entropy", "label_smoothing": 0.2})(logits, targets)
    assert smooth.item() == pytest.approx(F.cross_entropy(logits, targets, label_smoothing=0.2).item())
    assert smooth.item() != pytest.approx(F.cross_entropy(logits, targets).item())


def test_one_for_all_is_binary_cross_entropy_of_each_class_when_computed() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), torch.tensor([0, 2])
    sure = logits.sigmoid()
    by_hand = -(sure[0, 0].log() + (1 - sure[0, 1]).log() + (1 - sure[0, 2]).log())
    by_hand -= (1 - sure[1, 0]).log() + (1 - sure[1, 1]).log() + sure[1, 2].log()
    assert OneVsRestCrossEntropy()(logits, targets).item() == pytest.approx(by_hand.item() / 6, rel=1e-5)


def test_foreground_cross_entropy_is_that_of_a_softmax_of_two_when_pixels_are_ignored() -> None:
    logits, targets = batch("segmentation", labels=2)
    expected = F.cross_entropy(logits, targets.long(), ignore_index=IGNORED)
    assert ForegroundCrossEntropy()(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        logits[:, :, :2] = 1e4  # of ignored pixels
    assert ForegroundCrossEntropy()(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_loss_of_masks_does_not_look_at_pixels_when_they_are_ignored(name: str) -> None:
    labels = LABELS[:2] if name == "bce" else LABELS
    logits, targets = batch("segmentation", len(labels))
    loss = loss_of("segmentation", name, labels)
    before = loss(logits, targets)
    before.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    with torch.no_grad():
        logits[:, :, :2] += torch.randn_like(logits[:, :, :2])
    assert loss(logits, targets).item() == pytest.approx(before.item(), rel=1e-5)
    assert loss(logits, torch.full_like(targets, IGNORED)).item() == 0  # a mean over none would be NaN


def test_dice_is_over_the_foreground_when_masks_are_right() -> None:
    targets = torch.randint(3, (2, 8, 8), dtype=torch.uint8)
    right = F.one_hot(targets.long(), 3).permute(0, 3, 1, 2) * 40.0
    loss = loss_of("segmentation", "dice")
    assert loss(right, targets).item() == pytest.approx(0, abs=1e-4)
    assert loss(right.roll(1, dims=1), targets).item() == pytest.approx(1, abs=1e-2)


def test_loss_of_a_plugin_is_used_when_registered() -> None:
    @register("loss", "tests.doubled")
    class Doubled(nn.Module):
        def __init__(self, times: float = 2.0) -> None:
            super().__init__()
            self.times = times

        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return self.times * F.cross_entropy(logits, targets)

    plain = value(loss_of("multiclass", "cross_entropy"), "multiclass")
    assert value(loss_of("multiclass", "tests.doubled"), "multiclass") == pytest.approx(2 * plain)
    assert value(loss_of("multiclass", {"name": "tests.doubled", "times": 5}), "multiclass") == pytest.approx(5 * plain)


@pytest.mark.parametrize(
    ("task", "loss", "code", "expected"),
    [
        ("multiclass", "asymmetric", "config.unknown_loss", "cross_entropy, bce, focal"),
        ("multilabel", "assymetric", "config.unknown_loss", "asymmetric?"),
        ("segmentation", "bce", "config.loss_label_count", "bce"),
        ("embedding", "TripletLoss", "config.unknown_loss", "SoftTripleLoss or TripletMarginLoss"),
        ("embedding", {"name": "TripletMarginLoss", "miner": "HardMiner"}, "config.unknown_loss", "miner: "),
        ("embedding", {"name": "ArcFaceLoss", "marign": 2}, "config.loss_arguments", "{'marign': 2}"),
        (
            "multiclass",
            {"name": "bce", "miner": "BatchHardMiner"},
            "config.miner_not_supported",
            "loss bce: ",
        ),
        ("multiclass", "losses:Mine", "", "'losses'"),
    ],
)
def test_loss_is_refused_with_its_reason_when_it_does_not_fit(task: str, loss: Any, code: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loss_of(task, loss)
    assert caught.value.code == code or not code
    assert expected in str(caught.value)


@pytest.mark.parametrize(("configured", "expected"), [([1, 2, 4], [1, 2, 4]), ({"b": 3}, [1, 3, 1])])
def test_classes_weigh_what_is_configured_when_cross_entropy(configured: Any, expected: list[float]) -> None:
    logits, targets = batch("multiclass")
    loss = loss_of("multiclass", {"name": "cross_entropy", "class_weights": configured})
    plain = F.cross_entropy(logits, targets, weight=torch.tensor(expected, dtype=torch.float32))
    assert loss(logits, targets).item() == pytest.approx(plain.item(), rel=1e-6)


def test_balanced_weights_are_those_of_scikit_learn_when_counted() -> None:
    truths = ["a"] * 6 + ["b"] * 3 + ["c"]
    config = tiny_config(loss={"name": "focal", "class_weights": "balanced"})
    loss: Any = training_task(config).loss(TaskSpec(task="multiclass", labels=LABELS), truths)
    expected = compute_class_weight("balanced", classes=np.array(LABELS), y=truths)
    assert list(loss.class_weights["focal"].values()) == pytest.approx(expected.tolist())
    assert loss.losses[0].class_weights.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "segmentation"])
@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal"])
def test_weights_of_one_change_nothing_when_given(task: str, name: str) -> None:
    if (task, name) == ("multilabel", "cross_entropy"):
        pytest.skip("labels that are independent have no such loss")
    labels = LABELS[:2] if (task, name) == ("segmentation", "bce") else LABELS
    plain, weighted, heavy = (
        value(loss_of(task, {"name": name, **more}, labels), task, len(labels))
        for more in ({}, {"class_weights": [1] * len(labels)}, {"class_weights": {"b": 9}})
    )
    assert weighted == pytest.approx(plain, rel=1e-6)
    assert heavy != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "loss", "code", "expected"),
    [
        ("multiclass", {"name": "bce", "class_weights": [1, 2]}, "config.class_weights_count", "2 class_weights"),
        ("multiclass", {"name": "focal", "class_weights": {"z": 1}}, "config.class_weights_unknown_label", "a, b, c"),
        (
            "segmentation",
            {"name": "dice", "class_weights": "balanced"},
            "config.class_weights_not_supported",
            "loss dice: ",
        ),
        (
            "embedding",
            {"name": "ArcFaceLoss", "class_weights": "balanced"},
            "config.class_weights_not_supported",
            "metric learning",
        ),
    ],
)
def test_class_weights_are_refused_when_they_do_not_fit(task: str, loss: Any, code: str, expected: str) -> None:
    with raises(ConfigError, code, expected):
        loss_of(task, loss)


def test_list_of_weights_is_refused_with_the_right_key_when_given_as_weight() -> None:
    with pytest.raises(ValidationError, match="class_weights"):
        LossTerm.model_validate({"name": "cross_entropy", "weight": [1, 2, 3]})


def test_terms_are_spelled_out_when_written_short() -> None:
    config = tiny_config(loss="bce")
    assert config.loss == (LossTerm(name="bce"),)
    again = Config.model_validate(config.model_dump(mode="json"))
    assert again == config
