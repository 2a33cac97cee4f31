"""The threshold from which labels are accepted keeps its bound, in simulated self-labellings with known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from train.autolabel.comparison import Comparison
from train.autolabel.labelling import Labelling
from train.autolabel.risk import Counts, choose_threshold, level_of_round, pictures_needed

MAX_ERROR, CONFIDENCE = 0.05, 0.9


def answers(draw: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that are too high, as those of networks are, and whether the answers are wrong."""
    confidence = draw.beta(4, 1, size)
    return confidence, draw.random(size) > confidence**0.7


def test_error_exceeds_the_bound_no_more_often_than_allowed_when_calibrations_are_drawn_again() -> None:
    draw = np.random.default_rng(0)
    unlabelled, truth = answers(draw, 20_000)
    exceeded, chosen = 0, 0
    for _ in range(400):
        confidence, wrong = answers(draw, 800)
        threshold = choose_threshold(unlabelled, confidence, wrong, MAX_ERROR, 1 - CONFIDENCE, Counts()).threshold
        if threshold is not None:
            chosen += 1
            exceeded += truth[unlabelled >= threshold].mean() > MAX_ERROR
    assert chosen > 200
    assert exceeded <= 400 * (1 - CONFIDENCE)


class Classes:
    """Two overlapping classes of points, and a classifier by the nearer mean."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw

    def points(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        truths = self._draw.integers(0, 2, size)
        return self._draw.normal(truths[:, None] * 1.6, 1.0, (size, 3)), truths

    @staticmethod
    def probabilities(points: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
        means = np.stack([points[labels == label].mean(axis=0) for label in (0, 1)])
        scores = -((asked[:, None] - means) ** 2).sum(axis=2)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def test_error_of_all_rounds_exceeds_the_bound_no_more_often_than_allowed_when_models_learn_from_their_labels() -> None:
    draw = np.random.default_rng(1)
    classes, exceeded, later = Classes(draw), 0, 0
    for _ in range(200):
        (train, truths), (calibration, known), (pool, hidden) = map(classes.points, (12, 500, 3000))
        truths[:2] = 0, 1
        groups = [Labelling([None] * len(each), each) for each in (hidden, known)]  # type: ignore[list-item]
        for number in (1, 2, 3):
            accepted = groups[0].rounds > 0
            points = np.concatenate([train, pool[accepted]])
            labels = np.concatenate([truths, groups[0].labels[accepted]])
            for group, asked in zip(groups, (pool, calibration), strict=True):
                group.answer(classes.probabilities(points, labels, asked[group.pending]))
            pending, rest = (group.pending for group in groups)
            threshold = choose_threshold(
                groups[0].confidence[pending],
                groups[1].confidence[rest],
                groups[1].wrong()[rest],
                MAX_ERROR,
                level_of_round(CONFIDENCE, number),
                groups[1].counts(),
            ).threshold
            if threshold is None:
                break
            later += number > 1
            for group in groups:
                group.accept(threshold, number)
        counts = groups[0].counts()
        exceeded += counts.wrong > MAX_ERROR * counts.accepted
    assert later > 20
    assert exceeded <= 200 * (1 - CONFIDENCE)


def test_threshold_is_missing_with_the_number_of_pictures_needed_when_the_calibration_part_is_small() -> None:
    draw = np.random.default_rng(2)
    unlabelled, _ = answers(draw, 5000)
    right = np.zeros(100, dtype=bool)

    choice = choose_threshold(unlabelled, answers(draw, 100)[0], right, 0.02, 0.05, Counts())

    assert choice.threshold is None
    assert choice.needed is not None
    enough = np.sort(answers(draw, choice.needed)[0])
    assert choose_threshold(unlabelled, enough, np.zeros(len(enough), dtype=bool), 0.02, 0.05, Counts()).threshold


def test_threshold_is_missing_without_a_number_when_even_sure_answers_are_wrong() -> None:
    confidence = np.linspace(0, 1, 1000)
    wrong = np.arange(1000) % 5 == 0

    assert choose_threshold(confidence, confidence, wrong, 0.02, 0.05, Counts()) == (None, None)


def test_pictures_needed_are_those_of_clopper_and_pearson() -> None:
    level = 0.05
    least = pictures_needed(0.02, level)
    upper = [beta.ppf(1 - level, 1, pictures) for pictures in (least - 1, least)]
    assert upper[1] <= 0.02 < upper[0]
    assert sum(level_of_round(0.9, number) for number in range(1, 60)) == pytest.approx(0.1)


def test_picture_keeps_the_label_of_the_round_that_accepted_it() -> None:
    group = Labelling([None, None], [0, 1])  # type: ignore[list-item]
    group.answer(np.array([[0.9, 0.1], [0.6, 0.4]], dtype=np.float32))
    assert group.accept(0.8, 1) == 1
    group.answer(np.array([[0.1, 0.9]], dtype=np.float32))

    assert group.labels.tolist() == [0, 1]
    assert group.rounds.tolist() == [1, 0]
    assert group.counts() == (1, 0)


@pytest.mark.parametrize(("better", "worse", "helped"), [(60, 10, True), (10, 60, False), (12, 10, None), (0, 0, None)])
def test_comparison_says_whether_it_helped_when_both_models_answer(
    better: int, worse: int, helped: bool | None
) -> None:
    alone, labelled = np.ones(1000, dtype=bool), np.ones(1000, dtype=bool)
    alone[:better] = False
    labelled[better : better + worse] = False

    comparison = Comparison.of(alone, labelled)

    assert comparison.helped is helped
    assert comparison.low <= comparison.gain == (better - worse) / 1000 <= comparison.high
