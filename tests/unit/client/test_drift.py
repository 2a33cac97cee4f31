"""The tests of drift: right on published figures, silent on equal distributions, awake on changed ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from client.drift.report import compare_sketches
from client.drift.statistics import ks_tests, mmd_test, remoteness, share_test
from tests.task_specs import COLOUR_AND_MARKS
from tritonkit.sketch import Sketch, SketchSampler
from tritonkit.spec import ModelSpec

ALPHA = 0.05


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def answers(
    spec: ModelSpec, draw: np.random.Generator, count: int, weights: tuple[float, ...] = (1, 1, 1), dark: float = 1.0
) -> Sketch:
    """A sketch of a classifier that is mostly sure, of images of the classes with these weights."""
    classes = draw.choice(3, count, p=np.array(weights) / sum(weights))
    logits = draw.normal(0, 1, (count, 3)) + 4 * np.eye(3)[classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images = (draw.integers(0, 256, (count, 4, 4, 3)) * dark).astype(np.uint8)
    sampler = SketchSampler(spec)
    sampler.add(images, {"probabilities": probabilities.astype(np.float32)})
    return sampler.sketch("a simulation")


def moved(reference: Sketch, current: Sketch, min_shift: float) -> set[str]:
    """The names of all that moved."""
    (output,), pictures = compare_sketches(reference, current, ALPHA, min_shift)
    names = {f"label {label.label}" for label in output.labels if label.moved}
    names |= {f"probability {column.name}" for column in output.columns if column.moved}
    return names | {column.name for column in pictures if column.moved} | ({"MMD"} if output.moved else set())


def test_false_alarms_are_as_rare_as_alpha_when_the_distribution_is_the_same(
    spec: ModelSpec, draw: np.random.Generator
) -> None:
    repetitions = 60
    alarms = sum(bool(moved(answers(spec, draw, 120), answers(spec, draw, 80), 0)) for _ in range(repetitions))
    assert alarms <= 8  # of 3 expected at most; more than 8 has a probability of 0.2 %


def test_the_label_is_named_when_its_share_changed(spec: ModelSpec, draw: np.random.Generator) -> None:
    found = moved(answers(spec, draw, 500), answers(spec, draw, 300, (1, 1, 4)), 0.1)
    assert {"label bird", "probability bird", "MMD"} <= found
    assert not found & {"brightness", "contrast", "sharpness", "colour"}


def test_brightness_is_named_when_pictures_are_darker(spec: ModelSpec, draw: np.random.Generator) -> None:
    found = moved(answers(spec, draw, 300), answers(spec, draw, 100, dark=0.8), 0.1)
    assert "brightness" in found
    assert not any(name.startswith(("label", "probability")) for name in found)


def test_nothing_moved_when_a_significant_change_is_small(spec: ModelSpec, draw: np.random.Generator) -> None:
    reference, current = answers(spec, draw, 1000), answers(spec, draw, 1000, (1, 1, 1.6))
    assert "label bird" in moved(reference, current, 0)
    assert not {name for name in moved(reference, current, 0.15) if name != "MMD"}


def test_each_head_is_compared_when_the_model_has_several(spec: ModelSpec, draw: np.random.Generator) -> None:
    outputs = tuple(
        spec.outputs[0].model_copy(update={"name": name, "shape": (size,)})
        for name, size in (("colour", 2), ("marks", 3))
    )
    heads = spec.model_copy(update={**dict(COLOUR_AND_MARKS), "labels": (), "outputs": outputs})

    def sketch(count: int, red: float, line: float) -> Sketch:
        is_red = (draw.random(count) < red).astype(np.float32)
        marks = np.where(draw.random((count, 3)) < [0.5, line, 0.5], 0.9, 0.1).astype(np.float32)
        sampler = SketchSampler(heads)
        images = draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        sampler.add(images, {"colour": np.stack([is_red, 1 - is_red], axis=1), "marks": marks})
        return sampler.sketch("a simulation")

    compared, _ = compare_sketches(sketch(300, 0.5, 0.2), sketch(200, 0.5, 0.6), ALPHA, 0.1)
    assert {output.output: [label.label for label in output.labels if label.moved] for output in compared} == {
        "colour": [],
        "marks": ["line"],
    }


def test_share_test_gives_the_published_interval() -> None:
    # Newcombe 1998, table II, example (a): 56 of 70 against 48 of 80, method 10.
    share, shift, p = share_test(48, 80, 56, 70)
    assert (share.low, share.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert shift == pytest.approx(np.arcsin(0.8**0.5) - np.arcsin(0.6**0.5))
    assert 0.001 < p < 0.05


def test_ks_distance_is_the_gap_between_the_distributions(draw: np.random.Generator) -> None:
    reference = np.stack([np.arange(100.0), np.zeros(100)], axis=1)
    current = np.stack([np.arange(100.0) + 50, np.zeros(100)], axis=1)
    (distance, p), constant = ks_tests(reference, current)
    assert distance == pytest.approx(0.5)
    assert p < 1e-9
    assert constant == (0, 1)


def test_mmd_is_the_published_sum_of_kernel_values(draw: np.random.Generator) -> None:
    first, second = draw.normal(0, 1, (12, 2)), draw.normal(1, 1, (9, 2))
    together = np.concatenate([first, second])
    distances = np.linalg.norm(together[:, None] - together, axis=2)
    width = np.median(distances[np.triu_indices(21, 1)] ** 2)

    def mean_kernel(one: NDArray[np.float64], other: NDArray[np.float64], same: bool) -> float:
        kernel = np.exp(-(np.linalg.norm(one[:, None] - other, axis=2) ** 2) / (2 * width))
        return float((kernel.sum() - len(one)) / (len(one) * (len(one) - 1)) if same else kernel.mean())

    expected = mean_kernel(first, first, True) + mean_kernel(second, second, True)
    expected -= 2 * mean_kernel(first, second, False)
    mmd, p = mmd_test(first, second, 199)
    assert mmd == pytest.approx(expected, abs=1e-5)
    assert 1 / 200 <= p <= 0.1


def test_mmd_finds_no_difference_when_all_rows_are_equal() -> None:
    assert mmd_test(np.ones((40, 3)), np.ones((30, 3)), 99) == (pytest.approx(0), 1)


def test_remote_pictures_come_last_when_ordered(draw: np.random.Generator) -> None:
    reference, current = draw.normal(0, 1, (100, 2)), np.array([[0.0, 0.0], [9.0, 0.0], [30.0, 0.0]])
    scores = remoteness(reference, current)
    assert scores[0] < 0.6
    assert 1 <= scores[1] < scores[2]
