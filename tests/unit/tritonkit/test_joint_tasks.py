"""Tasks bring the outputs of two models with different labels to one set of labels."""

from __future__ import annotations

import numpy as np
import pytest

from tests.errors import raises
from tests.task_specs import COLOURS, PETS, TASK_SPECS, VECTOR
from tritonkit.errors import SpecError
from tritonkit.evaluation.intervals import wilson
from tritonkit.spec import Outputs, TaskSpec
from tritonkit.tasks import Task, task_for
from tritonkit.tasks.multilabel import Multilabel


def kept(old: Task, new: Task, before: Outputs, after: Outputs) -> list[bool]:
    """Whether each image keeps its decision, by the labels of both models."""
    joint = old.joint(new)
    agreement = joint.agreement(old.relabel(before, joint), new.relabel(after, joint))
    return [bool(each) for each in joint.decisions_kept(agreement)]


def floats(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"probabilities": np.array(rows, dtype=np.float32)}


def test_multiclass_answers_agree_by_name_when_the_labels_are_in_another_order() -> None:
    old, new = task_for(PETS), task_for(TaskSpec(task="multiclass", labels=("bird", "cat", "dog", "cow")))
    before = floats([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1])
    after = floats([0.1, 0.6, 0.2, 0.1], [0.6, 0.1, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7])
    assert kept(old, new, before, after) == [True, False, False]
    assert old.joint(new).labels == ("cat", "dog", "bird", "cow")


def test_multilabel_decisions_use_each_models_own_threshold() -> None:
    old = task_for(TaskSpec(task="multilabel", labels=("sky", "grass"), thresholds={"sky": 0.4}))
    new = task_for(TaskSpec(task="multilabel", labels=("grass", "sky", "sea"), thresholds={"sky": 0.8, "grass": 0.3}))
    assert isinstance(old, Multilabel)
    before = floats([0.45, 0.1], [0.45, 0.1], [0.3, 0.6], [0.3, 0.6])
    after = floats([0.1, 0.85, 0.1], [0.1, 0.7, 0.1], [0.35, 0.7, 0.1], [0.35, 0.7, 0.9])
    assert kept(old, new, before, after) == [True, False, True, False]


def test_masks_agree_by_name_when_the_class_numbers_differ() -> None:
    old = task_for(TaskSpec(task="segmentation", labels=("ground", "cat", "dog")))
    new = task_for(TaskSpec(task="segmentation", labels=("background", "dog", "cat", "cow")))
    before, after = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    before[:, :2], after[0, :2], after[1, :2] = 1, 2, 1
    assert kept(old, new, {"mask": before}, {"mask": after}) == [True, False]


def test_heads_are_compared_one_by_one() -> None:
    task = task_for(TASK_SPECS["heads"])
    other = TaskSpec(task="multiclass", labels=tuple(reversed(PETS.labels)))
    new = task_for(TaskSpec(task="heads", heads={"kind": other, "vector": VECTOR}))
    vector = np.eye(8, dtype=np.float32)[:2]
    before = {"kind": np.array([[0.8, 0.1, 0.1]] * 2, np.float32), "vector": vector}
    after = {"kind": np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], np.float32), "vector": vector}
    assert kept(task, new, before, after) == [True, False]
    assert task.decisions({"kind": {"label": "cat"}, "vector": {}}) == {"kind.label": "cat"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PETS, VECTOR),
        (VECTOR, TaskSpec(task="embedding", embedding_size=9)),
        (TASK_SPECS["heads"], TaskSpec(task="heads", heads={"colour": COLOURS})),
    ],
)
def test_models_are_refused_when_their_tasks_differ(old: TaskSpec, new: TaskSpec) -> None:
    with raises(SpecError, "spec.not_comparable"):
        task_for(old).joint(task_for(new))


@pytest.mark.parametrize("name", TASK_SPECS)
def test_joint_task_is_the_own_one_when_the_models_have_the_same_labels(name: str) -> None:
    task = task_for(TASK_SPECS[name])
    assert task.joint(task_for(TASK_SPECS[name])).labels == task.labels


def test_wilson_interval_is_that_of_the_books() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)
