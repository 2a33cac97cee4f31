"""The task of a pipeline: faults, answers, and masks from COCO RLE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.errors import raises
from tritonkit.errors import AnswerError, SpecError
from tritonkit.images.crops import MaskedObject
from tritonkit.images.objects import to_rle
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import ENCODED_IMAGE, ModelSpec, TaskSpec, TensorSpec
from tritonkit.tasks import task_for

KINDS = TaskSpec(task="objects", labels=("cat", "dog"))
SIZE = (31, 17)
WHOLE = Geometry(SIZE, (0.0, 0.0, 31.0, 17.0), (0.0, 0.0, 31.0, 17.0))


RUNS = "0_`0"
"""All 527 pixels of the image."""


def outputs(*found: tuple[MaskedObject, int], **changes: Any) -> dict[str, NDArray[Any]]:
    probabilities = np.full((len(found), 2), 0.25, np.float32)
    for row, (_, number) in enumerate(found):
        probabilities[row, number] = 0.75
    return {
        "boxes": np.array([entry.box for entry, _ in found], np.int32).reshape(-1, 4),
        "masks": np.array([to_rle(entry, SIZE) for entry, _ in found], np.str_),
        "labels": np.array([KINDS.labels[number] for _, number in found], np.str_),
        "probabilities": probabilities,
        "size": np.array(SIZE, np.int32),
        **changes,
    }


def found_at(left: int, top: int, right: int, bottom: int, seed: int = 0) -> MaskedObject:
    mask = np.random.default_rng(seed).random((bottom - top, right - left)) < 0.6
    return MaskedObject((left, top, right, bottom), mask)


def batch_of_one(output: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[None] for name, array in output.items()}


def test_answer_has_boxes_counts_and_the_mask_of_the_classes() -> None:
    first, second = found_at(0, 0, 9, 17), found_at(12, 3, 31, 16, seed=1)
    answer = task_for(KINDS).checked_answer(outputs((first, 1), (second, 0)), WHOLE, top=1)
    assert answer.fields["size"] == list(SIZE)
    assert answer.fields["counts"] == {"cat": 1, "dog": 1}
    assert [entry["label"] for entry in answer.fields["objects"]] == ["dog", "cat"]
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[0:17, 0:9][first.mask] = 2
    expected[3:16, 12:31][second.mask] = 1
    assert answer.mask is not None
    np.testing.assert_array_equal(answer.mask, expected)


def test_an_image_without_objects_has_an_answer() -> None:
    answer = task_for(KINDS).checked_answer(outputs(), WHOLE, top=1)
    assert answer.fields["objects"] == []
    assert task_for(KINDS).cells(answer.fields) == ["no objects"]
    assert answer.mask is not None
    assert not answer.mask.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.array([[0, 0, 40, 4]], np.int32)},
        {"boxes": np.array([[5, 0, 5, 4]], np.int32)},
        {"labels": np.array(["cow"])},
        {"labels": np.array(["cat", "cat"])},
        {"probabilities": np.array([[0.9, 0.9]], np.float32)},
        {"probabilities": np.array([[np.nan, 0.9]], np.float32)},
        {"size": np.array([0, 17], np.int32)},
        {"masks": np.array(["~~~~~~~"])},
        {"masks": np.array([""])},
        {"masks": np.array(["0~~~~~~~1"])},
        {"masks": np.array(["_" * 1_000_000])},
        {"masks": np.array([f"{RUNS}_"])},
        {"masks": np.array([f"{RUNS}1"])},
    ],
)
def test_impossible_answers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AnswerError):
        task_for(KINDS).checked_answer(outputs((found_at(0, 0, 9, 9), 0), **changes), WHOLE, top=1)


def test_answers_agree_unless_a_box_a_mask_or_a_label_differs() -> None:
    task, expected = task_for(KINDS), batch_of_one(outputs((found_at(0, 0, 9, 9), 0)))
    assert task.agreement(expected, expected)["objects"] == [1]
    for other in ((found_at(0, 0, 9, 8), 0), (found_at(0, 0, 9, 9, seed=5), 0), (found_at(0, 0, 9, 9), 1)):
        assert task.agreement(expected, batch_of_one(outputs(other)))["objects"] == [0]
    assert task.agreement(expected, batch_of_one(outputs()))["objects"] == [0]


def test_variable_sizes_are_minus_one_and_others_are_refused(spec: ModelSpec) -> None:
    assert [output.shape for output in task_for(KINDS).outputs(ENCODED_IMAGE)] == [(-1, 4), (-1,), (-1,), (-1, 2), (2,)]
    for size in (0, -2):
        with pytest.raises(ValueError, match="expected a size"):
            TensorSpec(name="x", dtype="FP32", shape=(size,))
    document = spec.to_json().replace(spec.input.model_dump_json(), ENCODED_IMAGE.model_dump_json())
    with raises(SpecError, "spec.fields"):
        ModelSpec.from_json(document, origin="a test")
