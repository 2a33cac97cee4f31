"""Filters: which answers are of interest, for each task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.filters import Filter
from model.errors import InputError
from model.spec import TaskSpec
from model.tasks import Answer

COLOURS = TaskSpec(task="multiclass", labels=("red", "green"))
TAGS = TaskSpec(task="multilabel", labels=("old", "new"))
MASKS = TaskSpec(task="segmentation", labels=("ground", "thing"))
VECTOR = TaskSpec(task="embedding", embedding_size=4)
RED = {"label": "red", "probability": 0.7, "top": [{"label": "red", "probability": 0.7}]}
OLD = {"labels": ["old"], "top": [{"label": "old", "probability": 0.9}, {"label": "new", "probability": 0.4}]}
THING = {"size": [4, 4], "regions": [{"label": "thing", "share": 0.1}]}


@pytest.mark.parametrize(
    ("question", "told", "classes", "least", "kept"),
    [
        (COLOURS, RED, ["red"], None, True),
        (COLOURS, RED, ["green"], None, False),
        (COLOURS, RED, [], 0.6, True),
        (COLOURS, RED, [], 0.8, False),
        (COLOURS, RED, ["red", "green"], 0.8, False),
        (TAGS, OLD, ["old"], None, True),
        (TAGS, OLD, ["new"], None, False),
        (TAGS, {"labels": [], "top": OLD["top"]}, [], 0.1, False),
        (MASKS, THING, ["thing"], None, True),
        (MASKS, {"size": [4, 4], "regions": []}, ["thing"], None, False),
        (TaskSpec(task="heads", heads={"c": COLOURS, "t": TAGS}), {"c": RED, "t": OLD}, ["old"], None, True),
        (TaskSpec(task="heads", heads={"c": COLOURS, "t": TAGS}), {"c": RED, "t": OLD}, ["green"], None, False),
    ],
)
def test_answer_is_kept_when_it_holds_a_wanted_label(
    task_spec: TaskSpec, told: dict[str, Any], classes: list[str], min_probability: float | None, kept: bool
) -> None:
    chosen = Filter.from_options(task_spec, classes, min_probability)
    assert chosen is not None
    assert chosen.keeps(Answer(told)) is kept


@pytest.mark.parametrize(("label", "kept"), [("four", True), ("one", True), ("three", False), ("ground", False)])
def test_mask_is_kept_when_it_holds_a_class_that_is_not_told(label: str, kept: bool) -> None:
    labels = ("ground", "one", "two", "three", "four")
    chosen = Filter.from_options(TaskSpec(task="segmentation", labels=labels), [label], None)
    told = {"size": [2, 2], "regions": [{"label": "one", "share": 0.5}]}
    assert chosen is not None
    assert chosen.keeps(Answer(told, mask=np.array([[1, 1], [4, 2]], np.uint8))) is kept


def test_nothing_is_filtered_when_nothing_is_asked() -> None:
    assert Filter.from_options(COLOURS, [], None) is None


@pytest.mark.parametrize(
    ("question", "classes", "least", "reason"),
    [
        (COLOURS, ["gren"], None, "--class gren: the model has no such label; did you mean green?"),
        (COLOURS, ["xyz"], None, "it has green, red"),
        (VECTOR, ["red"], None, "no labels to choose from"),
        (MASKS, [], 0.5, "masks have no probability for each class"),
        (
            TaskSpec(task="heads", heads={"kept": COLOURS, "tags": TAGS}),
            ["red"],
            None,
            "but a head of this model has that name",
        ),
    ],
)
def test_filter_is_refused_with_the_way_out_when_the_model_cannot_have_it(
    task_spec: TaskSpec, classes: list[str], min_probability: float | None, reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        Filter.from_options(task_spec, classes, min_probability)
    assert reason in str(refused.value)
