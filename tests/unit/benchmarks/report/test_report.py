from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.records.perf_analyzer import read_perf_analyzer
from benchmarks.records.record import LevelSlice, MeasuredModel, Record
from benchmarks.report.breakdown import batch_shares, breakdown_ms
from benchmarks.report.charts import percentile_points
from benchmarks.report.level_charts import latency_bins
from benchmarks.report.remarks import key_figures
from benchmarks.report.report import report_html, unique_names
from benchmarks.report.side_by_side import sections


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


def test_what_a_server_said_is_escaped(record: Record) -> None:
    assert "it &lt;broke&gt;" in report_html([record])


def test_there_is_no_limit_to_show_when_none_was_measured(record: Record) -> None:
    levels = tuple(level.model_copy(update={"share_of_limit": None}) for level in record.levels)
    without = record.model_copy(update={"limit": None, "limit_missing": "there is no file", "levels": levels})
    text = Page(report_html([without])).text
    assert "limit: none, there is no file" in text
    assert "In process, no server" not in text


def test_records_of_one_model_are_told_apart(record: Record) -> None:
    later = record.model_copy(update={"started_utc": record.started_utc + timedelta(hours=1)})
    assert unique_names([record]) == ["colours v3"]
    assert unique_names([record, later]) == ["colours v3 2026-01-02 03:04:05", "colours v3 2026-01-02 04:04:05"]
    assert len(set(unique_names([record, record]))) == 2
    assert "colours v3 2026-01-02 04:04:05" in report_html([record, later])


def test_incomplete_and_refused_are_marked_and_a_refused_p99_is_no_figure(open_record: Record) -> None:
    html = report_html([open_record])
    for mark in ("incomplete", "refused"):
        assert f'<span class="stamp">{mark}</span>' in html
    text = Page(html).text
    assert "INCOMPLETE: 3 of 4 levels; stopped by Ctrl-C" in text
    assert "REFUSED: p99 at 200 requests/s: the client sent only 92 % of the due requests" in text
    refused = open_record.levels[-1]
    assert f"{refused.p50_ms:,.2f}" in text
    assert refused.from_send is not None
    for p99_ms in (refused.p99_ms, refused.from_send.p99_ms):
        assert f"{p99_ms:,.1f}" not in text
        assert f"{p99_ms:,.2f}" not in text


def test_the_page_says_how_to_measure_again_and_how_it_was_counted(record: Record, open_record: Record) -> None:
    text = Page(report_html([open_record])).text
    assert "bench run colours --url 127.0.0.1:8001 --rate 50,100,200,400 --images 'my photos'" in text
    assert "Open loop." in text
    assert "Closed loop." not in text
    old = Page(report_html([record])).text
    assert "Closed loop." in old
    assert "does not have its command" in old


def test_the_parts_of_the_time_add_up_to_the_mean(open_record: Record) -> None:
    level = open_record.levels[0]
    parts = breakdown_ms(level, batch=1)
    assert [part for part, ms in parts.items() if ms] == [
        *("late send", "network", "decoder queue", "decoder compute", "colours queue", "colours compute", "other")
    ]
    assert sum(parts.values()) == pytest.approx(level.mean_ms)


def test_batch_sizes_are_those_of_the_slowest_step_in_doubling_ranges(open_record: Record) -> None:
    assert batch_shares(open_record.levels[0]) == {(1, 1): 0.25, (3, 4): 0.75}


def test_a_histogram_is_drawn_as_it_was_counted() -> None:
    counts = {1000: 90, 2000: 9, 50_000: 1}
    edges, shares = latency_bins(counts)
    assert len(edges) == len(shares) + 1
    assert sorted(shares)[-3:] == [0.01, 0.09, 0.9]
    positions, latencies_ms = percentile_points(counts)
    assert (positions[0], latencies_ms[0]) == (1, 1)
    assert positions[-1] == pytest.approx(100)
    assert latencies_ms[-1] == 50
    assert set(latencies_ms[positions < 9.9]) == {1}


def test_only_differences_that_could_be_equal_are_marked(record: Record) -> None:
    subject = MeasuredModel.model_validate({**dict(record.subject), "settings": {"instance_group": [{"count": 2}]}})
    later = {"subject": subject, "started_utc": record.started_utc + timedelta(hours=1)}
    rows = {row.name: row for section in sections([record, record.model_copy(update=later)]) for row in section.rows}
    assert [row.name for row in rows.values() if row.is_marked] == ["instance_group"]
    assert rows["instance_group"].values == ("—", "count 2")
    assert not rows["started"].is_common


@pytest.mark.parametrize(
    ("scenario", "changes", "value"),
    [
        ("SingleStream", {}, "12.60 ms"),
        ("MultiStream", {}, "13.41 ms"),
        ("Offline", {}, "99.0"),
        ("Server", {"p99_bound_ms": 13}, "50.0"),
        ("Server", {"p99_bound_ms": 5}, "none"),
    ],
)
def test_a_scenario_has_its_own_result(
    open_record: Record, scenario: str, changes: dict[str, object], value: str
) -> None:
    load = open_record.load.model_copy(update={"scenario": scenario, **changes})
    assert key_figures(open_record.model_copy(update={"load": load}))[-1].value == value


def test_two_records_are_compared_or_it_says_why_not(record: Record, open_record: Record) -> None:
    samples = tuple(LevelSlice(seconds=0.5, requests=75, mean_ms=6.67, p50_ms=6.67, p99_ms=20) for _ in range(20))
    levels = tuple(level.model_copy(update={"samples": samples}) for level in record.levels)
    old = record.model_copy(update={"levels": levels})
    text = Page(report_html([old, old])).text
    assert "verdict: no change" in text
    assert "+0.0%" in text
    unlike = Page(report_html([record, open_record])).text
    assert "the records are not alike" in unlike
    assert "verdict" not in unlike


def test_perf_analyzer_is_drawn_beside_a_record(record: Record, tmp_path: Path) -> None:
    csv = tmp_path / "perf.csv"
    csv.write_text("Concurrency,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency\n4,315,1,2,3,4500\n")
    html = report_html([record, read_perf_analyzer(csv)])
    assert html.count('"name":"perf_analyzer perf.csv"') == 1 + 2 * 3, "throughput, and p50, p90 and p99 in two charts"
    assert "4.5 ms" in Page(html).text
