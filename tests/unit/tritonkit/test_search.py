"""The task `search`: which answers are possible, when two agree, and how one is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.errors import raises
from tritonkit.comparison import FP32_LIMITS, compare
from tritonkit.errors import SpecError
from tritonkit.images.preprocess import Geometry
from tritonkit.spec import GallerySpec, Outputs, TaskSpec
from tritonkit.tasks import task_for
from tritonkit.tasks.search import OWN_PATH, UNKNOWN, Search

THRESHOLD = 0.3
GALLERY = GallerySpec(
    items=5,
    neighbors=3,
    threshold=THRESHOLD,
    false_accept=0.05,
    false_accept_error=0.01,
    embedder="e" * 64,
    fingerprint="f" * 64,
)
SPEC = TaskSpec(task="search", labels=("cat", "dog"), embedding_size=8, gallery=GALLERY)
WHOLE = Geometry((8, 8), (0.0, 0.0, 8.0, 8.0), (0.0, 0.0, 8.0, 8.0))


def found(*items: tuple[str, str, float], answer: str = "") -> Outputs:
    """The outputs for one image: (label, path, distance) of each neighbour."""
    labels, paths, distances = zip(*items, strict=True)
    answer = answer or (labels[0] if distances[0] < THRESHOLD else UNKNOWN)
    return {
        "answer": np.array([[answer]]),
        "label": np.array([labels]),
        "path": np.array([paths]),
        "distance": np.array([distances], np.float32),
    }


REFERENCE = found(("cat", "a", 0.1), ("dog", "b", 0.2), ("cat", "c", 0.4))


@pytest.fixture
def task() -> Search:
    task = task_for(SPEC)
    assert isinstance(task, Search)
    return task


def kept(task: Search, actual: Outputs, expected: Outputs = REFERENCE) -> bool:
    return bool(task.decisions_kept(task.agreement(expected, actual)).all())


@pytest.mark.parametrize(
    "actual",
    [
        REFERENCE,
        found(("cat", "a", 0.1), ("dog", "b", 0.2), ("cat", "d", 0.4)),  # as near as the last one
    ],
)
def test_answers_agree_when_the_items_are_as_near(task: Search, actual: Outputs) -> None:
    assert kept(task, actual)


@pytest.mark.parametrize(
    "actual",
    [
        found(("dog", "b", 0.1), ("cat", "a", 0.2), ("cat", "c", 0.4)),  # another order
        found(("cat", "a", 0.1), ("dog", "b", 0.2), ("dog", "d", 0.3)),  # an item that is farther away
        found(("cat", "a", 0.1), ("dog", "b", 0.2), ("cat", "c", 0.4), answer=UNKNOWN),
        found(("cat", "a", 0.1), ("dog", "b", 0.2), ("dog", "c", 0.4)),  # another label
        found(("cat", "a", 0.1), ("dog", "b", 0.2), ("cat", "d", 0.3995)),  # nearer than the last one
        found(("cat", "a", 0.1), ("cat", "c", 0.4), ("dog", "d", 0.5)),  # one is missing
    ],
)
def test_answers_differ_when_items_or_decision_change(task: Search, actual: Outputs) -> None:
    assert not kept(task, actual)


def test_equally_near_items_may_change_places_when_their_distances_tie(task: Search) -> None:
    expected = found(("cat", "a", 0.1), ("dog", "b", 0.1), ("cat", "c", 0.4))
    assert kept(task, found(("dog", "b", 0.1), ("cat", "a", 0.1), ("cat", "c", 0.4)), expected)


def test_both_decisions_agree_when_the_distance_is_at_the_threshold(task: Search) -> None:
    expected = found(("cat", "a", 0.299999), ("dog", "b", 0.4), ("cat", "c", 0.5))
    assert kept(task, found(("cat", "a", 0.300001), ("dog", "b", 0.4), ("cat", "c", 0.5)), expected)


TEN = found(*((("cat", "dog")[rank % 2], f"item{rank}", 0.1 + 0.05 * rank) for rank in range(10)))


def ten_without(rank: int, last: tuple[str, str, float]) -> Outputs:
    """The answer of ten neighbours that misses one of them, and has a farther one instead."""
    items = zip(*(TEN[name][0] for name in ("label", "path", "distance")), strict=True)
    return found(*(item for number, item in enumerate(items) if number != rank), last)


@pytest.fixture
def approximate() -> Search:
    gallery = GALLERY.model_copy(update={"neighbors": 10, "approximate_recall": 0.998})
    task = task_for(SPEC.model_copy(update={"gallery": gallery}))
    assert isinstance(task, Search)
    return task


def test_an_approximate_answer_agrees_when_one_of_ten_items_is_missing(task: Search, approximate: Search) -> None:
    answer = ten_without(4, ("dog", "farther", 0.7))
    assert kept(approximate, answer, TEN)
    assert compare("batch 1", approximate, TEN, answer).is_kept(FP32_LIMITS)
    assert not kept(task, answer, TEN)


@pytest.mark.parametrize(("neighbors", "floor"), [(1, 1.0), (3, 2 / 3), (9, 8 / 9), (10, 0.9), (50, 0.9)])
def test_one_item_may_be_missing_however_few_are_asked_for(neighbors: int, floor: float) -> None:
    gallery = GALLERY.model_copy(update={"neighbors": neighbors, "approximate_recall": 0.998})
    task = task_for(SPEC.model_copy(update={"gallery": gallery}))
    shares = {"answer": np.ones(2), "neighbors": np.array([floor, floor - 0.01])}
    assert task.decisions_kept(shares).tolist() == [True, False]


def test_a_metric_may_be_a_little_worse_when_the_search_is_approximate(task: Search, approximate: Search) -> None:
    assert (task.quality_limit(0.0), approximate.quality_limit(0.0), approximate.quality_limit(0.05)) == (
        0.0,
        0.01,
        0.05,
    )
    assert task.joint(approximate) is approximate
    assert approximate.joint(task) is approximate


@pytest.mark.parametrize(
    ("answer", "is_decision"),
    [
        (ten_without(0, ("dog", "farther", 0.7)), True),  # the nearest one decides
        (ten_without(4, ("dog", "nearer", 0.51)), False),  # an exact search would have found it
        (ten_without(4, ("dog", "item9", 0.56)), False),  # an item twice, at another distance
        ({**TEN, "label": np.roll(TEN["label"], 1, axis=1), "answer": np.array([["dog"]])}, True),
        ({**TEN, "distance": TEN["distance"] + np.float32(0.001)}, False),
    ],
)
def test_an_approximate_answer_differs_when_it_is_wrong(
    approximate: Search, answer: Outputs, is_decision: bool
) -> None:
    comparison = compare("batch 1", approximate, TEN, answer)
    assert not comparison.is_kept(FP32_LIMITS)
    assert (comparison.decisions_kept < 1) == is_decision


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        (found(("cat", "a", 2.5), ("dog", "b", 2.6), ("cat", "c", 2.7)), "unit length"),
        (found(("cat", "a", 0.2), ("dog", "b", 0.1), ("cat", "c", 0.4)), "order"),
        (found(("cat", "a", 0.2), ("dog", "b", 0.3), ("cat", "c", 0.4), answer="dog"), "means cat"),
        ({**REFERENCE, "path": REFERENCE["path"][:, :2]}, "expected [3]"),
        ({name: array for name, array in REFERENCE.items() if name != "distance"}, "missing"),
    ],
)
def test_outputs_are_refused_when_no_search_gives_them(task: Search, outputs: Outputs, word: str) -> None:
    assert word in (task.value_problem(outputs) or "")


def test_outputs_are_valid_when_they_fit_together(task: Search) -> None:
    assert task.value_problem(REFERENCE) is None


def test_recall_ignores_the_image_itself_when_it_is_in_the_gallery(task: Search) -> None:
    outputs = found(("cat", "own", 0.0), ("dog", "b", 0.2), ("cat", "c", 0.4))
    in_gallery = {"answer": np.array(["cat"]), OWN_PATH: np.array(["own"])}
    assert task.quality(outputs, in_gallery) == {"recall@1": 0.0}
    assert task.quality(outputs, {"answer": np.array(["cat"])}) == {"recall@1": 1.0, "recall@3": 1.0}


def test_answer_lists_the_nearest_items_when_top_is_smaller(task: Search) -> None:
    far = {name: array[0] for name, array in found(("cat", "a", 0.5), ("dog", "b", 0.6), ("cat", "c", 0.7)).items()}
    fields: dict[str, Any] = task.answer(far, WHOLE, top=2).fields
    assert (fields["label"], fields["distance"]) == (UNKNOWN, 0.5)
    assert [neighbor["path"] for neighbor in fields["neighbors"]] == ["a", "b"]
    assert task.cells(fields) == [UNKNOWN, "a 0.5000", "b 0.6000"]


def test_search_without_a_gallery_is_refused() -> None:
    with raises(SpecError, "spec.no_gallery"):
        task_for(TaskSpec(task="search", labels=("cat",)))
