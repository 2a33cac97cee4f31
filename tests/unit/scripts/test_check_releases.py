"""The table of releases must not grow old unseen."""

from __future__ import annotations

import json
from datetime import date

import pytest

from scripts.check_releases import TABLE, describe_outdated_table
from tests.programs import ROOT


@pytest.mark.parametrize(
    ("checked", "today", "old"),
    [
        (date(2026, 11, 28), date(2026, 11, 28), False),
        (date(2026, 11, 28), date(2027, 5, 30), False),
        (date(2026, 11, 28), date(2027, 5, 31), True),
        (date(2026, 11, 28), date(2031, 1, 1), True),
    ],
)
def test_a_table_is_old_after_half_a_year(checked: date, today: date, old: bool) -> None:
    problem = describe_outdated_table(checked, today)
    assert bool(problem) == old
    if old:
        assert str(checked) in problem
        assert "IMAGE_TAG" in problem


def test_the_table_says_when_it_was_compared() -> None:
    assert date.fromisoformat(json.loads(TABLE.read_text())["checked"]) >= date(2026, 11, 28)


def test_lock_asks() -> None:
    assert "scripts/check_releases.py" in (ROOT / "scripts" / "lock.sh").read_text()
