"""The threshold of a search model: its rate, its error, and which images are too few to choose it on."""

from __future__ import annotations

import numpy as np
import pytest

from builder.index.threshold import choose_threshold, leave_one_out
from builder.sources.search.gallery import Gallery
from tests.errors import raises
from tritonkit.errors import InputError


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clustered(classes: int, each: int, size: int = 8, seed: int = 0) -> Gallery:
    """Classes around random directions."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((classes, size)), each, axis=0)
    vectors = unit(centres + 0.3 * rng.standard_normal(centres.shape))
    labels = np.repeat([f"class {number}" for number in range(classes)], each)
    return Gallery(vectors, labels, np.array([f"{number}.png" for number in range(len(labels))]))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_threshold_accepts_the_chosen_share_when_new_images_are_alike(rate: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.array([str(number % 50) for number in range(4000)])
    threshold = choose_threshold(rng.random(4000).astype(np.float32), labels, rate, "a test")
    assert abs((rng.random(20_000) < threshold.distance).mean() - rate) < 0.01
    assert 0 < threshold.error < 0.01


def test_error_is_larger_when_few_classes_make_up_the_accepted_images() -> None:
    distances = np.linspace(0, 1, 1000, dtype=np.float32)
    mixed = np.array([str(number % 20) for number in range(1000)])
    sorted_by_class = np.array([str(number // 50) for number in range(1000)])  # one class has all near images
    errors = [choose_threshold(distances, labels, 0.05, "a test").error for labels in (mixed, sorted_by_class)]
    assert errors[0] < 0.005 < 0.04 < errors[1]


@pytest.mark.parametrize(("images", "classes", "rate"), [(99, 9, 0.05), (1000, 4, 0.05), (1000, 50, 0.001)])
def test_rate_is_refused_when_the_held_out_classes_are_too_few(images: int, classes: int, rate: float) -> None:
    labels = np.array([str(number % classes) for number in range(images)])
    with raises(InputError, "index.too_few_held_out", f"{images} images of {classes} classes"):
        choose_threshold(np.linspace(0, 1, images, dtype=np.float32), labels, rate, "a test")


def test_threshold_is_refused_when_unknown_images_have_the_vectors_of_the_gallery() -> None:
    distances, labels = np.zeros(1000, np.float32), np.array([str(number % 50) for number in range(1000)])
    with raises(InputError, "index.threshold_zero"):
        choose_threshold(distances, labels, 0.05, "a test")


def test_search_finds_what_a_full_sort_finds_when_items_stand_twice() -> None:
    gallery = clustered(6, 5)
    doubled = Gallery(
        np.concatenate([gallery.vectors] * 2),
        np.concatenate([gallery.labels] * 2),
        np.char.add(np.concatenate([gallery.paths] * 2), np.repeat(["", "+"], len(gallery))),
    )
    queries = clustered(3, 4, seed=5).vectors
    distances, indices = doubled.search(queries, 7)
    everything = np.clip(1 - queries @ doubled.vectors.T, 0, 2)
    np.testing.assert_array_equal(distances, np.sort(everything, axis=1)[:, :7])
    np.testing.assert_array_equal(indices, np.argsort(everything, axis=1, kind="stable")[:, :7])


@pytest.mark.parametrize(("path", "is_new"), [("a", False), ("b", True)])
def test_nearly_equal_vectors_are_one_image_when_the_path_is_equal(path: str, is_new: bool) -> None:
    """As an embedder may compute them on another machine, 4e-6 apart."""
    angle = np.arccos(1 - 4e-6)
    gallery = Gallery(np.eye(2, dtype=np.float32), np.array(["x", "y"]), np.array(["a", "c"]))
    vectors = np.array([[np.cos(angle), np.sin(angle)], [-1, 0]], np.float32)
    added = Gallery(vectors, np.array(["x", "x"]), np.array([path, "d"]))
    merged, new, notes = gallery.with_items(added)
    assert (new.tolist(), len(merged), len(notes)) == ([is_new, True], 3 + is_new, 1 - is_new)


def test_leave_one_out_measures_recall_and_both_distances() -> None:
    gallery = clustered(6, 5)
    left_out = leave_one_out(gallery)
    assert list(left_out.recall) == ["recall@1", "recall@3", "recall@5", "recall@10"]
    assert left_out.has_match.all()
    assert left_out.false_reject(2.5) == 0
    assert left_out.false_reject(0) == 1


def test_leave_one_out_measures_what_follows_by_hand() -> None:
    """Of the four vectors a and b are 0.2 apart, b and c 0.04, and d lies opposite of a."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0]], np.float32)
    left_out = leave_one_out(Gallery(vectors, np.array(["x", "x", "y", "y"]), np.array(["a", "b", "c", "d"])))
    np.testing.assert_allclose(left_out.nearest, [0.2, 0.04, 0.04, 1.6], atol=1e-6)
    np.testing.assert_allclose(left_out.other_class, [0.4, 0.04, 0.04, 1.8], atol=1e-6)
    assert left_out.recall == {"recall@1": 0.5, "recall@3": 1.0}  # a finds b, and d finds c
    assert left_out.false_reject(0.1) == 0.5


def test_nothing_is_refused_when_no_class_has_two_items() -> None:
    left_out = leave_one_out(clustered(6, 1))
    assert (left_out.false_reject(0.1), left_out.recall) == (None, {})
