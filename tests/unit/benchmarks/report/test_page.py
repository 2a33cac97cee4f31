"""The report as a browser shows it: on a desktop, a phone and paper, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.records.record import Record
from benchmarks.report.report import write_report
from tests.browser import Browser, open_browser

UNDRAWN = "[...document.querySelectorAll('.chart')].filter(chart => !chart.querySelector('.trace path')).length"
TOO_WIDE = """[...document.querySelectorAll('.card, .plotly-graph-div, .main-svg')]
    .filter(box => box.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"""
COLOURS = """[getComputedStyle(document.querySelector('.xtick text')).fill,
    getComputedStyle(document.querySelector('.card')).backgroundColor]"""
DARK_SCHEME = [{"name": "prefers-color-scheme", "value": "dark"}]
LIGHT, DARK = ["rgb(102, 112, 133)", "rgb(255, 255, 255)"], ["rgb(152, 162, 179)", "rgb(24, 30, 41)"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(record: Record, open_record: Record, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(path, [record, open_record])
    return path


def test_every_chart_is_drawn_without_an_error_or_a_request(browser: Browser, page: Path) -> None:
    for width, dark in ((1280, False), (390, True)):
        browser.open(page, width, dark=dark)
        assert browser.problems == []
        assert browser.requests == [page.as_uri()]
        assert browser.evaluate("document.querySelectorAll('.chart').length") == 14
        assert browser.evaluate(UNDRAWN) == 0
        assert browser.evaluate(TOO_WIDE) == 0
        assert browser.evaluate(COLOURS) == (DARK if dark else LIGHT)
    # Paper is light and narrow, also if the screen is dark.
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    browser.call("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    assert browser.evaluate(TOO_WIDE) == 0
    assert browser.evaluate(COLOURS) == LIGHT
    assert browser.problems == []
