"""The report as a browser shows it: on a desktop and a phone, light, dark and printed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.records.record import Record
from benchmarks.report.report import write_report
from tests.browser import Browser, open_browser

EMPTY_CHARTS = "[...document.querySelectorAll('.plotly-graph-div')].filter(c => !c.querySelector('.trace path')).length"
TOO_WIDE = "[...document.querySelectorAll('main, .card, .plotly-graph-div, svg')].filter(e => \
    e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
COLOURS = "['.xtick text', '.card'].map(s => getComputedStyle(document.querySelector(s))).map(c => \
    [c.fill, c.backgroundColor])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_charts_are_drawn_without_an_error_or_a_request(
    browser: Browser, record: Record, tmp_path: Path, width: int, dark: bool
) -> None:
    page = tmp_path / "report.html"
    later = record.model_copy(update={"started_utc": record.started_utc + timedelta(hours=1)})
    write_report(page, [record, later])
    browser.open(page, width, dark=dark)
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.evaluate(EMPTY_CHARTS) == 0
    assert browser.evaluate(TOO_WIDE) == 0
    (text, _), (_, card) = browser.evaluate(COLOURS)
    assert (text, card) == (
        ("rgb(152, 162, 179)", "rgb(24, 30, 41)") if dark else ("rgb(102, 112, 133)", "rgb(255, 255, 255)")
    )
