"""Filters: which answers are kept, for each task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.outputs.filters import Filter
from tests.errors import raises
from tritonkit.errors import InputError
from tritonkit.spec import TaskSpec
from tritonkit.tasks import Answer

COLOURS = TaskSpec(task="multiclass", labels=("red", "green"))
TAGS = TaskSpec(task="multilabel", labels=("old", "new"))
MASKS = TaskSpec(task="segmentation", labels=("ground", "thing"))
VECTOR = TaskSpec(task="embedding", embedding_size=4)
RED = {"label": "red", "probability": 0.7, "top": [{"label": "red", "probability": 0.7}]}
OLD = {"labels": ["old"], "top": [{"label": "old", "probability": 0.9}, {"label": "new", "probability": 0.4}]}
THING = {"size": [4, 4], "regions": [{"label": "thing", "share": 0.1}]}


@pytest.mark.parametrize(
    ("task_spec", "fields", "classes", "min_probability", "is_accepted"),
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
def test_answer_is_kept_when_it_has_a_selected_label(
    task_spec: TaskSpec, fields: dict[str, Any], classes: list[str], min_probability: float | None, is_accepted: bool
) -> None:
    chosen = Filter.from_options(task_spec, classes, min_probability)
    assert chosen is not None
    assert chosen.accepts(Answer(fields)) is is_accepted


@pytest.mark.parametrize(("label", "is_accepted"), [("four", True), ("one", True), ("three", False), ("ground", False)])
def test_mask_is_kept_when_it_has_a_class_without_a_region(label: str, is_accepted: bool) -> None:
    labels = ("ground", "one", "two", "three", "four")
    chosen = Filter.from_options(TaskSpec(task="segmentation", labels=labels), [label], None)
    fields = {"size": [2, 2], "regions": [{"label": "one", "share": 0.5}]}
    assert chosen is not None
    assert chosen.accepts(Answer(fields, mask=np.array([[1, 1], [4, 2]], np.uint8))) is is_accepted


def test_there_is_no_filter_without_options() -> None:
    assert Filter.from_options(COLOURS, [], None) is None


@pytest.mark.parametrize(
    ("task_spec", "classes", "min_probability", "code", "datum"),
    [
        (COLOURS, ["gren"], None, "filter.label", "did you mean green?"),
        (COLOURS, ["xyz"], None, "filter.label", "green, red"),
        (VECTOR, ["red"], None, "filter.no_labels", "embedding"),
        (MASKS, [], 0.5, "filter.mask_probability", "--threshold"),
        (TaskSpec(task="heads", heads={"kept": COLOURS, "tags": TAGS}), ["red"], None, "filter.key_taken", "'kept'"),
    ],
)
def test_filter_is_refused_when_it_does_not_fit_the_model(
    task_spec: TaskSpec, classes: list[str], min_probability: float | None, code: str, datum: str
) -> None:
    with raises(InputError, code, datum):
        Filter.from_options(task_spec, classes, min_probability)
