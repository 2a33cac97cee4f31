"""The sequential test of `client shadow`: its wrong decisions are as rare as it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from client.shadow.sequential import Decision, ShareTest

RUNS, IMAGES, LIMIT = 300, 3000, 0.05


def decisions(share: float) -> dict[Decision, int]:
    """Simulate runs that stop at the first decision, and count the decisions."""
    draw = np.random.default_rng(0)
    counts: dict[Decision, int] = {"promote": 0, "keep": 0, "undecided": 0}
    for _ in range(RUNS):
        test = ShareTest(LIMIT)
        for differing in (draw.random((IMAGES // 5, 5)) < share).sum(axis=1):
            test.add(int(differing), 5)
            if test.decision != "undecided":
                break
        counts[test.decision] += 1
    return counts


def allowed(alpha: float) -> float:
    """Runs that may decide wrongly, with three standard deviations for the chance of this simulation."""
    return RUNS * alpha + 3 * math.sqrt(RUNS * alpha * (1 - alpha))


def test_candidate_is_rarely_promoted_when_it_changes_as_many_answers_as_the_limit() -> None:
    counts = decisions(LIMIT)
    assert counts["promote"] + counts["keep"] <= allowed(0.05)


def test_candidate_is_kept_back_when_it_changes_twice_the_limit() -> None:
    counts = decisions(2 * LIMIT)
    assert counts["promote"] <= allowed(0.05)
    assert counts["keep"] >= 0.95 * RUNS


def test_candidate_is_promoted_when_it_changes_a_fifth_of_the_limit() -> None:
    counts = decisions(LIMIT / 5)
    assert counts["keep"] <= allowed(0.05)
    assert counts["promote"] >= 0.95 * RUNS


@pytest.mark.parametrize(("limit", "needed"), [(0.05, 93), (0.02, 236), (0.01, 473)])
def test_equal_candidate_is_promoted_after_a_known_number_of_images(limit: float, needed: int) -> None:
    test = ShareTest(limit)
    while test.decision == "undecided":
        test.add(0, 1)
    assert (test.decision, test.total) == ("promote", needed)


def test_interval_holds_the_observed_share_and_shrinks() -> None:
    test = ShareTest(LIMIT)
    assert test.interval() == pytest.approx((0, 1))
    widths = []
    for _ in range(4):
        test.add(3, 100)
        low, high = test.interval()
        assert 0 < low < 0.03 < high < 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
