"""Auxiliary heads: what they are shown, and which configurations hide it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from pydantic import ValidationError
from torch.utils.data import DataLoader

from tests.fixture_types import NetworkOf
from tests.train_configs import tiny_config
from train.distributed.sharing import validation_batches
from train.engine.module import TrainingModule
from train.reports.intervals import IntervalEstimator
from train.tasks import training_task
from train.tasks.builtin import HeadsTraining
from tritonkit.spec import ModelSpec

DIGIT = {"task": "multiclass", "column": "label"}
TURN = {"task": "augmentation", "operation": "rotation"}
MIRROR = {"task": "augmentation", "operation": "flip"}
CALM = {"flip": 0}


def heads_of(auxiliary: dict[str, Any]) -> HeadsTraining:
    task = training_task(tiny_config(task="heads", heads={"digit": DIGIT, "turn": auxiliary}, augment=CALM))
    assert isinstance(task, HeadsTraining)
    return task


@pytest.mark.parametrize("auxiliary", [TURN, MIRROR])
def test_copies_are_changed_as_their_classes_say(auxiliary: dict[str, Any]) -> None:
    task = heads_of(auxiliary)
    images = torch.randint(256, (9, 6, 6, 3), dtype=torch.uint8)
    seen: list[torch.Tensor] = []

    def infer(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(batch)
        return {"digit": batch, "turn": batch}

    values, targets = task.answered(infer, images, {"digit": torch.arange(9), "turn": torch.zeros(9)}, first=1)
    labels = task.heads["turn"].task_spec([], ()).labels
    assert [len(batch) for batch in seen] == [18]  # one batch
    assert torch.equal(values["digit"], images)
    assert targets["digit"].tolist() == list(range(9))
    assert targets["turn"].tolist() == [(1 + number) % len(labels) for number in range(9)]
    undo = {
        "90": lambda image: torch.rot90(image, -1, (0, 1)),
        "180": lambda image: image.flip(0, 1),
        "270": lambda image: torch.rot90(image, 1, (0, 1)),
        "horizontal": lambda image: image.flip(1),
        "vertical": lambda image: image.flip(0),
    }
    for image, changed, number in zip(images, values["turn"], targets["turn"], strict=True):
        assert torch.equal(undo.get(labels[number], lambda each: each)(changed), image)


class SeenOperations(torch.nn.Module):
    """A loss that counts the operations that the head has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def forward(self, logits: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> torch.Tensor:
        self.counts.update(targets["turn"].tolist())
        return logits["turn"].sum()


@pytest.mark.parametrize("batches", [1, 6])
def test_operations_are_equally_common_in_training_when_batches_are_small(
    batches: int, network_of: NetworkOf, tmp_path: Path
) -> None:
    task = heads_of(TURN)
    network = network_of(task.task_spec([{"digit": label, "turn": "0"} for label in "01"], ()))
    loss = SeenOperations()
    module = TrainingModule(network, task, loss, tiny_config(augment=CALM, epochs=4, batch_size=2))
    network.train()
    trainer = Trainer(max_epochs=4, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    images, labels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    trainer.fit(module, DataLoader([(images, {"digit": labels, "turn": labels})] * batches, batch_size=None))
    assert loss.counts == dict.fromkeys(range(4), 2 * batches)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_of_val_have_one_operation_whatever_the_number_of_processes(count: int) -> None:
    operation = {}
    for rank in range(count):
        before = 0
        for batch in validation_batches(17, 4, rank, count):
            _, classes = (
                heads_of(TURN).auxiliary["turn"].changed(torch.zeros(len(batch), 2, 2, 3), rank + count * before, count)
            )
            operation |= dict(zip(batch, classes.tolist(), strict=True))
            before += len(batch)
    assert operation == {index: index % 4 for index in range(17)}


def test_interval_of_the_mean_leaves_the_head_out() -> None:
    task = heads_of(TURN)
    estimator = IntervalEstimator(task, task.task_spec([{"digit": label, "turn": "0"} for label in "01"], ()))
    right, guessed = np.eye(2, dtype=np.float32)[[0, 1] * 20], np.eye(4, dtype=np.float32)[[0] * 40]
    truths = {"digit": right.argmax(axis=1), "turn": np.arange(40) % 4}
    estimator.add({"digit": right, "turn": guessed}, truths)
    found = estimator.estimate({"digit.macro_f1": 1.0, "turn.macro_f1": 0.1, "mean": 1.0})
    assert list(found) == ["turn.macro_f1"]  # the digits are all right, and so is their mean


def test_head_needs_nothing_from_the_data_and_its_fingerprint_stays() -> None:
    task = heads_of(TURN)
    truth = task.truth({"label": "7", "image_path": "7.png"})
    assert task.classes(truth) == ["digit=7"]
    assert task.label_columns == ["label"]
    alone = training_task(tiny_config(task="heads", heads={"digit": DIGIT}))
    assert task.fingerprint_bytes(truth) == alone.fingerprint_bytes(alone.truth({"label": "7"}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heads": {"turn": TURN}}, "needs another head"),
        ({"heads": {"digit": DIGIT, "turn": {"task": "augmentation"}}}, "needs an operation"),
        ({"heads": {"digit": {**DIGIT, "operation": "flip"}}}, "is for task: augmentation"),
        ({"heads": {"digit": DIGIT, "turn": {**TURN, "column": "label"}}}, "leave out column"),
        ({"image": {"height": 32, "width": 64}}, "square images"),
        ({"augment": {"rotate": 50}}, "turn images by up to 50 degrees"),
        ({"augment": {"rotate": 30, "randaugment": True}}, "turn images by up to 70.5 degrees"),
        ({"augment": {"flip_vertical": 0.5}}, "upside down"),
        ({"heads": {"digit": DIGIT, "mirror": MIRROR}, "augment": {"flip": 0.5}}, "also mirrors"),
    ],
)
def test_configuration_is_refused_when_the_operation_cannot_be_learned(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        tiny_config(**{"task": "heads", "heads": {"digit": DIGIT, "turn": TURN}, "augment": CALM, **changes})


def test_augmentation_is_free_when_it_is_off() -> None:
    config = tiny_config(
        task="heads", heads={"digit": DIGIT, "turn": TURN}, augment={"enabled": False, "flip_vertical": 0.5}
    )
    assert config.heads["turn"].operation == "rotation"


def test_spec_knows_its_auxiliary_heads_by_the_lineage(network_of: Any) -> None:
    task_spec = heads_of(TURN).task_spec([{"digit": label, "turn": "0"} for label in "01"], ())
    spec: ModelSpec = network_of(task_spec).spec
    assert spec.auxiliary_heads == ()
    lineage = spec.lineage.model_copy(update={"config": {"heads": {"digit": DIGIT, "turn": TURN}}})
    spec = spec.model_copy(update={"lineage": lineage})
    assert spec.auxiliary_heads == ("turn",)
    kept = spec.without_heads(spec.auxiliary_heads)
    assert (list(kept.heads), [output.name for output in kept.outputs]) == (["digit"], ["digit"])
