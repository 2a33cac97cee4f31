"""The multiclass task: outputs, decisions, quality, and how an answer is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.errors import SpecError
from model.spec import ModelSpec, TensorSpec
from model.tasks import TASKS, task_of
from model.tasks.multiclass import TIE

TASK = TASKS["multiclass"]


def rows(*values: list[float]) -> dict[str, NDArray[Any]]:
    return {"probabilities": np.array(values, dtype=np.float32)}


def test_task_is_found_when_outputs_agree(spec: ModelSpec) -> None:
    assert task_of(spec) is TASK


@pytest.mark.parametrize(
    "output",
    [
        TensorSpec(name="probabilities", dtype="FP32", shape=(4,)),
        TensorSpec(name="probabilities", dtype="FP16", shape=(3,)),
        TensorSpec(name="logits", dtype="FP32", shape=(3,)),
        TensorSpec(name="probabilities", dtype="FP32", shape=(3, 1)),
    ],
    ids=str,
)
def test_task_names_both_when_outputs_disagree(spec: ModelSpec, output: TensorSpec) -> None:
    with pytest.raises(SpecError, match=r"pets: .*3 labels has the outputs probabilities FP32 \[N, 3\]") as caught:
        task_of(spec.model_copy(update={"outputs": (output,)}))
    assert str(caught.value).endswith(str(output))


@pytest.mark.parametrize("labels", [(), ("only",)])
def test_task_is_refused_when_there_is_nothing_to_choose(spec: ModelSpec, labels: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match=f"at least two labels, got {len(labels)}"):
        task_of(spec.model_copy(update={"labels": labels}))


@pytest.mark.parametrize(
    ("expected", "actual", "kept"),
    [
        ([0.7, 0.2, 0.1], [0.4, 0.35, 0.25], True),
        ([0.7, 0.2, 0.1], [0.35, 0.4, 0.25], False),
        ([0.4, 0.4, 0.2], [0.39, 0.41, 0.2], True),
        ([0.4, 0.4 - TIE / 2, 0.2], [0.3, 0.5, 0.2], True),
        ([0.4, 0.4 - TIE * 2, 0.2], [0.3, 0.5, 0.2], False),
        ([1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0], True),
    ],
    ids=["same", "other", "tie", "near-tie", "no-tie", "all-tie"],
)
def test_decision_is_kept_when_as_good(expected: list[float], actual: list[float], kept: bool) -> None:
    assert TASK.decisions_kept(rows(expected), rows(actual)).tolist() == [kept]


def test_decisions_are_told_apart_when_there_are_several_images() -> None:
    expected = rows([0.9, 0.1], [0.9, 0.1], [0.1, 0.9])
    assert TASK.decisions_kept(expected, rows([0.8, 0.2], [0.2, 0.8], [0.3, 0.7])).tolist() == [True, False, True]


def test_quality_is_the_share_of_hits_when_the_truth_is_known() -> None:
    assert TASK.quality(rows([0.9, 0.1], [0.2, 0.8], [0.6, 0.4]), np.array([0, 1, 1])) == {
        "accuracy": pytest.approx(2 / 3)
    }


def test_answer_is_sorted_when_classes_are_not() -> None:
    answer = TASK.answer({"probabilities": np.array([0.2, 0.5, 0.3])}, ["cat", "dog", "bird"], top=2)
    assert answer == {
        "label": "dog",
        "probability": 0.5,
        "top": [{"label": "dog", "probability": 0.5}, {"label": "bird", "probability": 0.3}],
    }


def test_answer_takes_the_first_class_when_there_is_a_tie() -> None:
    answer = TASK.answer({"probabilities": np.array([0.2, 0.4, 0.4])}, ["cat", "dog", "bird"], top=3)
    assert [row["label"] for row in answer["top"]] == ["dog", "bird", "cat"]


def test_answer_keeps_the_order_of_labels_when_many_classes_tie() -> None:
    labels = [f"class {number}" for number in range(1000)]
    answer = TASK.answer({"probabilities": np.tile([0.5e-3, 1.5e-3], 500)}, labels, top=1000)
    assert [row["label"] for row in answer["top"]] == labels[1::2] + labels[::2]


@pytest.mark.parametrize(("top", "length"), [(-1, 1), (0, 1), (1, 1), (3, 3), (100, 3)])
def test_answer_has_what_there_is_when_top_is_out_of_range(top: int, length: int) -> None:
    answer = TASK.answer({"probabilities": np.array([0.2, 0.5, 0.3])}, ["cat", "dog", "bird"], top=top)
    assert len(answer["top"]) == length


def test_caption_is_short_when_shown() -> None:
    answer = TASK.answer({"probabilities": np.array([0.126, 0.874])}, ["cat", "dog"], top=1)
    assert TASK.caption(answer) == "dog 0.87"
