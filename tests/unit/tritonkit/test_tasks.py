"""The tasks: outputs, agreement and its ties, faults, quality, and the fields of an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.errors import raises
from tritonkit.errors import AnswerError, SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import ModelSpec, TaskSpec, TensorSpec
from tritonkit.tasks import Task, task_for, task_of
from tritonkit.tasks.base import TIE_TOLERANCE
from tritonkit.tasks.multiclass import Multiclass
from tritonkit.tasks.segmentation import IGNORED

IMAGE = TensorSpec(name="image", dtype="UINT8", shape=(4, 6, 3))
WHOLE = Geometry((6, 4), (0.0, 0.0, 6.0, 4.0), (0.0, 0.0, 6.0, 4.0))
PETS = TaskSpec(task="multiclass", labels=("cat", "dog", "bird"))
TRAITS = TaskSpec(task="multilabel", labels=("old", "wet", "red"), thresholds={"wet": 0.8})
VECTOR = TaskSpec(task="embedding", embedding_size=2)
STAMP = TaskSpec(task="segmentation", labels=("background", "stamp"))
SOFT = TaskSpec(task="segmentation", labels=("background", "stamp"), probability=True)
REGIONS = TaskSpec(task="segmentation", labels=("background", "sky", "grass"))
HEADS = TaskSpec(task="heads", heads={"kind": PETS, "traits": TRAITS, "vector": VECTOR})


def rows(*values: Any, name: str = "probabilities") -> dict[str, NDArray[Any]]:
    return {name: np.array(values, dtype=np.float32)}


def vectors(*degrees: float, length: float = 1.0, name: str = "embedding") -> dict[str, NDArray[Any]]:
    """Directions in the plane."""
    angles = np.radians(degrees)
    return {name: (length * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)}


def masks(*values: Any) -> dict[str, NDArray[Any]]:
    return {"mask": np.array(values, dtype=np.uint8)}


def equal_decisions(task: Task, expected: dict[str, Any], actual: dict[str, Any]) -> list[bool]:
    return task.decisions_kept(task.agreement(expected, actual)).tolist()


# Any task


def test_task_is_found_when_outputs_agree(spec: ModelSpec) -> None:
    assert isinstance(task_of(spec), Multiclass)


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
    with raises(SpecError, "spec.outputs_mismatch", "probabilities FP32 [N, 3]") as caught:
        task_of(spec.model_copy(update={"outputs": (output,)}))
    assert str(caught.value).endswith(str(output))


@pytest.mark.parametrize(
    ("task_spec", "outputs"),
    [
        (PETS, ["probabilities FP32 [N, 3]"]),
        (TRAITS, ["probabilities FP32 [N, 3]"]),
        (VECTOR, ["embedding FP32 [N, 2]"]),
        (STAMP, ["mask UINT8 [N, 4, 6]"]),
        (STAMP.model_copy(update={"probability": True}), ["mask UINT8 [N, 4, 6]", "probability FP32 [N, 4, 6]"]),
        (HEADS, ["kind FP32 [N, 3]", "traits FP32 [N, 3]", "vector FP32 [N, 2]"]),
    ],
)
def test_outputs_are_those_of_the_table_for_each_task(task_spec: TaskSpec, outputs: list[str]) -> None:
    assert list(map(str, task_for(task_spec).outputs(IMAGE))) == outputs


@pytest.mark.parametrize(
    ("task_spec", "code", "datum"),
    [
        (TaskSpec(task="divination"), "spec.unknown_task", "'divination'"),
        (TaskSpec(task="divination"), "spec.unknown_task", "multiclass, multilabel, embedding, segmentation"),
        (TaskSpec(task="multiclass"), "spec.too_few_labels", "2 labels, got 0"),
        (TaskSpec(task="multiclass", labels=("only",)), "spec.too_few_labels", "2 labels, got 1"),
        (TaskSpec(task="multilabel"), "spec.too_few_labels", "1 labels, got 0"),
        (TaskSpec(task="embedding"), "spec.no_embedding_size", "embedding_size"),
        (TaskSpec(task="segmentation", labels=("background",)), "spec.too_few_labels", "2 labels, got 1"),
        (TaskSpec(task="segmentation", labels=tuple(map(str, range(256)))), "spec.too_many_labels", "got 256"),
        (REGIONS.model_copy(update={"probability": True}), "spec.probability_labels", "got 3"),
        (TaskSpec(task="multilabel", labels=("a",), thresholds={"a": 0.0}), "spec.threshold_range", "a: 0.0"),
        (TaskSpec(task="segmentation", labels=("a", "b"), thresholds={"b": 1.0}), "spec.threshold_range", "b: 1.0"),
        (TaskSpec(task="heads"), "spec.no_heads", "heads"),
        (TaskSpec(task="heads", heads={"m": STAMP}), "spec.head_task", "head m: segmentation"),
        (TaskSpec(task="heads", heads={"h": HEADS}), "spec.head_task", "head h: heads"),
        (TaskSpec(task="heads", heads={"path": PETS}), "spec.head_name_reserved", "head path"),
        (TaskSpec(task="heads", heads={"a": TaskSpec(task="embedding")}), "spec.no_embedding_size", "embedding_size"),
    ],
)
def test_task_is_refused_when_its_settings_are_wrong(task_spec: TaskSpec, code: str, datum: str) -> None:
    with raises(SpecError, code, datum):
        task_for(task_spec)


# Multiclass


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([0.7, 0.2, 0.1], [0.4, 0.35, 0.25], True),
        ([0.7, 0.2, 0.1], [0.35, 0.4, 0.25], False),
        ([0.4, 0.4, 0.2], [0.39, 0.41, 0.2], True),
        ([0.4, 0.4 - TIE_TOLERANCE / 2, 0.2], [0.3, 0.5, 0.2], True),
        ([0.4, 0.4 - TIE_TOLERANCE * 2, 0.2], [0.3, 0.5, 0.2], False),
        ([1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0], True),
    ],
    ids=["same", "other", "tie", "near-tie", "no-tie", "all-tie"],
)
def test_class_is_kept_when_as_good(expected: list[float], actual: list[float], same: bool) -> None:
    assert equal_decisions(task_for(PETS), rows(expected), rows(actual)) == [same]


def test_decisions_are_told_apart_when_there_are_several_images() -> None:
    task = task_for(PETS)
    expected = rows([0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0])
    actual = rows([0.8, 0.2, 0], [0.2, 0.8, 0], [0.3, 0.7, 0])
    assert task.agreement(expected, actual)["top1"].tolist() == [1, 0, 1]
    assert equal_decisions(task, expected, actual) == [True, False, True]


def test_quality_is_the_share_of_hits_when_the_truth_is_known() -> None:
    answers = rows([0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0])
    targets = {"probabilities": np.array([0, 1, 1])}
    assert task_for(PETS).quality(answers, targets) == {"accuracy": pytest.approx(2 / 3)}


def test_classes_are_faulty_when_they_do_not_sum_to_one() -> None:
    task = task_for(PETS)
    assert task.faults(rows([0.5, 0.5, 0.004])) == []
    (fault,) = task.faults(rows([0.5, 0.5, 0], [3.0, -1.0, 0.5]))
    assert "1.5" in fault


def test_classes_are_faulty_when_they_sum_to_one_outside_their_range() -> None:
    (fault,) = task_for(PETS).faults(rows([3.0, -1.0, -1.0]))
    assert "-1..3, expected 0..1" in fault


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("task_spec", "outputs"),
    [
        (PETS, {"probabilities": np.array([0.2, 0.3, 0.5], np.float32)}),
        (TRAITS, {"probabilities": np.array([0.2, 0.3, 0.5], np.float32)}),
        (VECTOR, {"embedding": np.array([0.6, 0.8], np.float32)}),
        (SOFT, {"mask": np.zeros((4, 6), np.uint8), "probability": np.full((4, 6), 0.1, np.float32)}),
    ],
    ids=["multiclass", "multilabel", "embedding", "segmentation"],
)
def test_answer_is_refused_when_a_value_is_no_number(
    task_spec: TaskSpec, outputs: dict[str, NDArray[Any]], value: float
) -> None:
    task = task_for(task_spec)
    task.checked_answer(outputs, WHOLE, top=1)
    *_, last = outputs
    broken = {**outputs, last: outputs[last].copy()}
    broken[last].flat[0] = value
    word = "NaN" if np.isnan(value) else "infinite"
    with pytest.raises(AnswerError, match=f"{last} .*1 {word} of {broken[last].size}"):
        task.checked_answer(broken, WHOLE, top=1)


def test_answer_is_refused_when_an_output_is_missing_or_of_another_size() -> None:
    with pytest.raises(AnswerError, match=r"probabilities .*logits"):
        task_for(PETS).checked_answer({"logits": np.array([0.2, 0.3, 0.5])}, WHOLE, top=1)
    with pytest.raises(AnswerError, match=r"probabilities .*\[2\] .*\[3\]"):
        task_for(PETS).checked_answer({"probabilities": np.array([0.5, 0.5])}, WHOLE, top=1)
    with pytest.raises(AnswerError, match=r"vector .*kind, traits"):
        task_for(HEADS).checked_answer({"kind": np.array([1.0, 0, 0]), "traits": np.zeros(3)}, WHOLE, top=1)
    with pytest.raises(AnswerError, match=r"probability .*mask"):
        task_for(SOFT).checked_answer({"mask": np.zeros((4, 6), np.uint8)}, WHOLE, top=1)


def test_answer_is_sorted_when_classes_are_not() -> None:
    answer = task_for(PETS).answer({"probabilities": np.array([0.2, 0.5, 0.3])}, WHOLE, top=2)
    assert answer.fields == {
        "label": "dog",
        "probability": 0.5,
        "top": [{"label": "dog", "probability": 0.5}, {"label": "bird", "probability": 0.3}],
    }
    assert (answer.embedding, answer.mask) == (None, None)


def test_answer_takes_the_first_class_when_there_is_a_tie() -> None:
    answer = task_for(PETS).answer({"probabilities": np.array([0.2, 0.4, 0.4])}, WHOLE, top=3)
    assert [row["label"] for row in answer.fields["top"]] == ["dog", "bird", "cat"]


def test_answer_keeps_the_order_of_labels_when_many_classes_tie() -> None:
    labels = [f"class {number}" for number in range(1000)]
    task = task_for(TaskSpec(task="multiclass", labels=tuple(labels)))
    answer = task.answer({"probabilities": np.tile([0.5e-3, 1.5e-3], 500)}, WHOLE, top=1000)
    assert [row["label"] for row in answer.fields["top"]] == labels[1::2] + labels[::2]


@pytest.mark.parametrize(("top", "length"), [(-1, 1), (0, 1), (1, 1), (3, 3), (100, 3)])
def test_answer_has_what_there_is_when_top_is_out_of_range(top: int, length: int) -> None:
    answer = task_for(PETS).answer({"probabilities": np.array([0.2, 0.5, 0.3])}, WHOLE, top=top)
    assert len(answer.fields["top"]) == length


def test_caption_is_the_best_class_when_shown() -> None:
    task = task_for(PETS)
    answer = task.answer({"probabilities": np.array([0.126, 0.874, 0])}, WHOLE, top=2)
    assert task.cells(answer.fields) == ["dog 0.87", "cat 0.13"]
    assert task.captions([answer], ["a.jpg"]) == ["dog 0.87"]


# Multilabel


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([0.9, 0.1, 0.6], [0.6, 0.7, 0.9], True),
        ([0.9, 0.1, 0.6], [0.9, 0.81, 0.6], False),
        ([0.9, 0.9, 0.6], [0.9, 0.79, 0.6], False),
        ([0.9, 0.1, 0.6], [0.9, 0.1, 0.4], False),
        ([0.9, 0.1, 0.5 + TIE_TOLERANCE / 2], [0.9, 0.1, 0.4], True),
        ([0.9, 0.8 - TIE_TOLERANCE / 2, 0.6], [0.9, 0.9, 0.6], True),
        ([0.9, 0.8 - TIE_TOLERANCE * 2, 0.6], [0.9, 0.9, 0.6], False),
    ],
    ids=["same", "one-more", "one-fewer", "another", "tie", "tie-at-its-threshold", "no-tie"],
)
def test_label_set_is_kept_when_no_label_crosses_its_threshold(
    expected: list[float], actual: list[float], same: bool
) -> None:
    assert equal_decisions(task_for(TRAITS), rows(expected), rows(actual)) == [same]


def test_quality_is_the_share_of_exact_sets_when_the_truth_is_known() -> None:
    answers = rows([0.9, 0.79, 0.1], [0.9, 0.8, 0.1], [0.5, 0.1, 0.5])
    targets = {"probabilities": np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1]])}
    assert task_for(TRAITS).quality(answers, targets) == {"exact_match": pytest.approx(2 / 3)}


def test_labels_are_faulty_when_they_are_no_probabilities() -> None:
    task = task_for(TRAITS)
    assert task.faults(rows([0.0, 1.0, 0.5])) == []
    (fault,) = task.faults(rows([0.1, 0.2, 0.3], [-3.0, 0.1, 2.5]))
    assert "-3..2.5, expected 0..1" in fault


def test_answer_has_the_labels_that_hold_when_there_are_several() -> None:
    task = task_for(TRAITS)
    answer = task.answer({"probabilities": np.array([0.6, 0.7, 0.9])}, WHOLE, top=1)
    assert answer.fields == {
        "labels": ["red", "old"],
        # All labels above their threshold are listed, even with a small `top`.
        "top": [{"label": "red", "probability": 0.9}, {"label": "wet", "probability": 0.7}],
    }


def test_caption_says_none_and_what_was_nearest_when_no_label_holds() -> None:
    task = task_for(TRAITS)
    answer = task.answer({"probabilities": np.array([0.1, 0.7, 0.2])}, WHOLE, top=2)
    assert answer.fields["labels"] == []
    assert task.captions([answer], ["a.jpg"]) == ["none (nearest: wet 0.70)"]


# Embedding


def test_neighbour_is_kept_when_it_is_the_same_or_as_near() -> None:
    task = task_for(VECTOR)
    # Both neighbours of the second lie 10 degrees from it.
    agreement = task.agreement(vectors(0, 10, 20, 90), vectors(0, 9, 20, 90))
    assert agreement["neighbour"].tolist() == [1, 1, 1, 1]
    lost = task.agreement(vectors(0, 10, 25, 90), vectors(0, 16, 25, 90))
    assert lost["neighbour"].tolist() == [1, 0, 1, 1]
    assert lost["cosine"][1] == pytest.approx(np.cos(np.radians(6)))
    assert equal_decisions(task, vectors(0, 10, 25, 90), vectors(0, 16, 25, 90)) == [True, False, True, True]


def test_embedding_is_kept_when_it_is_alone() -> None:
    assert equal_decisions(task_for(VECTOR), vectors(3), vectors(4)) == [True]
    assert equal_decisions(task_for(VECTOR), vectors(3), vectors(9)) == [False]


def test_quality_is_recall_among_classes_that_have_two_when_the_truth_is_known() -> None:
    task, answers = task_for(VECTOR), vectors(0, 5, 90, 12, 200)
    targets = {"embedding": np.array([1, 1, 2, 2, 9])}
    # The third's nearest is the fourth, of its class; the fourth's is the second, of another. Nothing has class 9 too.
    assert task.quality(answers, targets) == {"recall@1": pytest.approx(3 / 4)}
    assert task.quality(answers, {"embedding": np.arange(5)}) == {}


def test_embedding_is_faulty_when_it_is_not_of_unit_length() -> None:
    task = task_for(VECTOR)
    assert task.faults(vectors(10, 20, length=1.004)) == []
    assert ["length 2.5" in fault for fault in task.faults(vectors(10, 20, length=2.5))] == [True]
    assert "length 0" in task.faults(vectors(10, length=0))[0]


def test_caption_names_the_nearest_other_picture_when_there_is_one() -> None:
    task = task_for(VECTOR)
    answers = [task.answer({"embedding": row}, WHOLE, 1) for row in vectors(0, 60, 90)["embedding"]]
    assert answers[1].embedding is not None
    assert answers[1].embedding.dtype == np.float32
    assert answers[1].fields["embedding"] == pytest.approx([0.5, 0.866025], abs=1e-6)
    assert task.captions(answers, ["a", "b", "c"]) == ["nearest: b (0.50)", "nearest: c (0.87)", "nearest: b (0.87)"]
    assert task.captions(answers[:1], ["a"]) == ["2 numbers: 1.000, 0.000, …"]


# Segmentation


def square(*left_top_side: int, size: int = 20) -> NDArray[np.uint8]:
    """1 in a square, 0 around it."""
    left, top, side = left_top_side
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


@pytest.mark.parametrize(
    ("actual", "iou"),
    [
        (square(5, 5, 10), 1.0),
        # 10 columns of 11 in common; of the background 290 pixels of 310.
        (square(6, 5, 10), (90 / 110 + 290 / 310) / 2),
        (np.zeros((20, 20)), (0 + 300 / 400) / 2),
    ],
    ids=["same", "moved", "nothing"],
)
def test_masks_agree_by_the_mean_iou_of_their_labels(actual: Any, iou: float) -> None:
    task, expected = task_for(STAMP), masks(square(5, 5, 10))
    assert task.agreement(expected, masks(actual))["iou"] == pytest.approx([iou])
    assert equal_decisions(task, expected, masks(actual)) == [iou == 1]


def test_labels_that_no_mask_has_do_not_count_when_masks_are_compared() -> None:
    task = task_for(REGIONS)
    expected, actual = masks(square(0, 0, 10) * 2), masks(square(0, 0, 8) * 2)
    assert task.agreement(expected, actual)["iou"] == pytest.approx([(64 / 100 + 300 / 336) / 2])
    assert task.agreement(masks(np.zeros((4, 4))), masks(np.zeros((4, 4))))["iou"].tolist() == [1]


@pytest.mark.parametrize("geometry", [None, Geometry((400, 400), (0.0, 0.0, 400.0, 400.0), (0.0, 0.0, 20.0, 20.0))])
def test_two_pixels_may_fall_either_way_when_an_object_is_small(geometry: Geometry | None) -> None:
    """They are the model's pixels: 800 of the picture's, which is twenty times as large."""
    task, expected, actual = task_for(STAMP), square(5, 5, 3), square(5, 5, 3)
    geometries = None if geometry is None else [geometry]
    actual[5, 4] = actual[6, 4] = 1
    assert task.agreement(masks(expected), masks(actual), geometries)["iou"].tolist() == [1]
    actual[7, 4] = 1
    assert task.agreement(masks(expected), masks(actual), geometries)["iou"][0] < 0.9


def test_quality_leaves_out_what_the_truth_ignores_when_it_is_known() -> None:
    truth = square(0, 0, 10)
    truth[:, 10:] = IGNORED
    answers = masks(np.ones((20, 20)), np.zeros((20, 20)))
    answers["mask"][0, 15:] = 0
    # Of 15 rows answered, 10 are right; right of them nothing is judged. The second mask finds nothing, rightly.
    targets = {"mask": np.stack([truth, np.zeros((20, 20), np.uint8)])}
    assert task_for(STAMP).quality(answers, targets) == {"foreground_iou": pytest.approx((100 / 150 + 1) / 2)}


def test_quality_counts_the_right_class_alone_when_there_are_several() -> None:
    truth = {"mask": np.array([[[1, 1, 2, 2]]], np.uint8)}
    assert task_for(REGIONS).quality(masks([[1, 2, 2, 0]]), truth) == {"foreground_iou": pytest.approx(2 / 4)}


def test_mask_is_faulty_when_it_holds_a_class_that_there_is_not() -> None:
    assert task_for(REGIONS).faults(masks([[0, 1, 2]])) == []
    assert ["class 3" in fault for fault in task_for(REGIONS).faults(masks([[0, 1, 3]]))] == [True]


def test_answer_has_the_mask_at_the_pictures_size_when_the_input_was_fitted() -> None:
    """A picture of 40 x 20, padded to 20 x 20: rows 5 to 15 are the picture."""
    geometry = Geometry((40, 20), (0.0, 0.0, 40.0, 20.0), (0.0, 5.0, 20.0, 15.0))
    mask = np.full((20, 20), 2, np.uint8)
    mask[5:15] = 0
    mask[5:15, :5] = 1
    task = task_for(REGIONS)
    answer = task.answer({"mask": mask}, geometry, top=2)
    assert answer.mask is not None
    assert answer.mask.shape == (20, 40)
    assert (answer.mask[:, :10] == 1).all()
    assert (answer.mask[:, 10:] == 0).all()
    assert answer.fields == {"size": [40, 20], "regions": [{"label": "sky", "share": 0.25}]}
    assert task.captions([answer], ["a.jpg"]) == ["sky 25%"]


def test_caption_names_the_background_when_a_mask_is_empty() -> None:
    task = task_for(REGIONS)
    answer = task.answer({"mask": np.zeros((4, 6), np.uint8)}, WHOLE, top=2)
    assert task.captions([answer], ["a.jpg"]) == ["background only"]


def test_regions_are_the_largest_first_and_no_more_than_asked() -> None:
    mask = np.array([[1, 1, 2, 2, 2, 0]] * 4, np.uint8)
    task = task_for(REGIONS)
    all_regions, largest = (task.answer({"mask": mask}, WHOLE, top=top).fields["regions"] for top in (5, 1))
    assert [region["label"] for region in all_regions] == ["grass", "sky"]
    assert largest == [{"label": "grass", "share": 0.5}]


# Heads


def of_heads(kind: Any, traits: Any, *degrees: float) -> dict[str, NDArray[Any]]:
    return {**rows(*kind, name="kind"), **rows(*traits, name="traits"), **vectors(*degrees, name="vector")}


def test_each_head_counts_when_decisions_are_compared() -> None:
    task = task_for(HEADS)
    kind, traits = ([0.9, 0.1, 0.0],) * 3, ([0.9, 0.1, 0.6],) * 3
    expected = of_heads(kind, traits, 0, 40, 90)
    other_kind = of_heads((kind[0], [0.1, 0.9, 0.0], kind[0]), traits, 0, 40, 90)
    other_trait = of_heads(kind, ([0.9, 0.9, 0.6], *traits[1:]), 0, 40, 90)
    other_vector = of_heads(kind, traits, 0, 40, 85)
    measures = {"kind.top1", "traits.label_set", "vector.cosine", "vector.neighbour"}
    assert task.agreement(expected, expected).keys() == measures
    assert equal_decisions(task, expected, expected) == [True, True, True]
    assert equal_decisions(task, expected, other_kind) == [True, False, True]
    assert equal_decisions(task, expected, other_trait) == [False, True, True]
    assert equal_decisions(task, expected, other_vector) == [True, True, False]


def test_quality_and_faults_have_the_heads_names() -> None:
    task = task_for(HEADS)
    answers = of_heads(([0.9, 0.1, 0.0], [0.9, 0.1, 0.0]), ([0.9, 0.1, 0.6], [-2.0, 0.1, 0.6]), 0, 5)
    targets = {"kind": np.array([0, 1]), "traits": np.array([[1, 0, 1], [0, 0, 0]]), "vector": np.array([4, 4])}
    assert task.quality(answers, targets) == {
        "kind.accuracy": 0.5,
        "traits.exact_match": 0.5,
        "vector.recall@1": 1.0,
    }
    (fault,) = task.faults(answers)
    assert "traits" in fault
    assert "-2..0.9, expected 0..1" in fault


def test_answer_has_what_each_head_says_under_its_name() -> None:
    task = task_for(HEADS)
    batch = of_heads(([0.9, 0.1, 0.0], [0.2, 0.8, 0.0]), ([0.9, 0.1, 0.6], [0.1, 0.1, 0.1]), 0, 60)
    answers = [task.answer({name: array[i] for name, array in batch.items()}, WHOLE, 1) for i in range(2)]
    assert list(answers[0].fields) == ["kind", "traits", "vector"]
    assert answers[0].fields["kind"]["label"] == "cat"
    assert answers[0].fields["traits"]["labels"] == ["old", "red"]
    assert answers[0].embedding is not None
    assert answers[0].embedding.tolist() == [1, 0]
    assert task.cells(answers[0].fields)[:2] == ["kind: cat 0.90", "traits: old 0.90, red 0.60"]
    assert task.captions(answers, ["a", "b"]) == [
        "kind: cat 0.90 · traits: old 0.90, red 0.60 · vector: nearest: b (0.50)",
        "kind: dog 0.80 · traits: none (nearest: old 0.10) · vector: nearest: a (0.50)",
    ]


# Replacing a threshold


def test_threshold_is_replaced_for_all_labels_when_another_is_tried() -> None:
    answers = {"probabilities": np.array([0.35, 0.35, 0.2])}
    assert task_for(TRAITS).with_threshold(0.3).answer(answers, WHOLE, 3).fields["labels"] == ["old", "wet"]
    soft = STAMP.model_copy(update={"probability": True})
    output = {"mask": np.zeros((4, 6), np.uint8), "probability": np.full((4, 6), 0.4, np.float32)}
    assert task_for(soft).answer(output, WHOLE, 1).fields["regions"] == []
    assert task_for(soft).with_threshold(0.3).answer(output, WHOLE, 1).fields["regions"][0]["share"] == 1
    heads = task_for(HEADS).with_threshold(0.3)
    answer = heads.answer(
        {"kind": np.array([1, 0, 0]), "traits": answers["probabilities"], "vector": np.ones(2)}, WHOLE, 1
    )
    assert answer.fields["traits"]["labels"] == ["old", "wet"]


@pytest.mark.parametrize(
    ("task_spec", "threshold", "code", "datum"),
    [
        (PETS, 0.3, "spec.no_threshold", "multiclass"),
        (VECTOR, 0.3, "spec.no_threshold", "embedding"),
        (STAMP, 0.3, "spec.threshold_in_graph", "builder export --threshold"),
        (REGIONS, 0.3, "spec.no_threshold", "3 labels"),
        (TaskSpec(task="heads", heads={"kind": PETS}), 0.3, "spec.no_threshold", "heads kind"),
        (TRAITS, 1.5, "spec.threshold_range", "old: 1.5"),
        (TRAITS, float("nan"), "spec.threshold_range", "old: nan"),
    ],
)
def test_threshold_is_refused_when_none_decides(task_spec: TaskSpec, threshold: float, code: str, datum: str) -> None:
    with raises(SpecError, code, datum):
        task_for(task_spec).with_threshold(threshold)
