from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

from benchmarks.records.record import Record
from benchmarks.report.report import report_html, unique_names


class Page(HTMLParser):
    """What a browser would show, and what it would fetch. Script and style are not text here."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fetched: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def test_the_page_tells_the_figures_and_fetches_nothing(record: Record) -> None:
    html = report_html([record])
    page = Page(html)
    for figure in ("colours v3", "321.4", "images/s at concurrency 4", "80%", "150.0", "Test CPU", "2.51.0"):
        assert figure in page.text
    assert "2 errors, unstable" in page.text
    assert "drift: the limit changed by -20%" in page.text
    assert page.fetched == []
    assert html.count('class="plotly-graph-div"') == 4


def test_what_a_server_said_is_escaped(record: Record) -> None:
    assert "it &lt;broke&gt;" in report_html([record])


def test_there_is_no_limit_to_show_when_none_was_measured(record: Record) -> None:
    levels = tuple(level.model_copy(update={"share_of_limit": None}) for level in record.levels)
    without = record.model_copy(update={"limit": None, "limit_missing": "there is no file", "levels": levels})
    html = report_html([without])
    assert "limit: none, there is no file" in html
    assert html.count('class="plotly-graph-div"') == 3


def test_records_of_one_model_are_told_apart(record: Record) -> None:
    later = record.model_copy(update={"started_utc": record.started_utc + timedelta(hours=1)})
    assert unique_names([record]) == ["colours v3"]
    assert unique_names([record, later]) == ["colours v3 2026-01-02 03:04:05", "colours v3 2026-01-02 04:04:05"]
    assert len(set(unique_names([record, record]))) == 2
    assert "colours v3 2026-01-02 04:04:05" in report_html([record, later])
