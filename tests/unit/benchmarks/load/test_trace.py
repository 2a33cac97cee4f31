from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.load.trace import read_trace
from tests.errors import raises
from tritonkit.errors import InputError


def trace(folder: Path, *lines: str) -> Path:
    path = folder / "trace.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_times_count_from_the_first(tmp_path: Path) -> None:
    assert read_trace(trace(tmp_path, "2.5", "2.5", "3", "4e0", "")).seconds == (0, 0, 0.5, 1.5)


def test_a_log_gives_the_times_at_which_requests_came(tmp_path: Path) -> None:
    """nginx writes a line when a request ends, so a long one comes late in the log."""
    lines = (
        {"time": 1700000001.5, "request_time": 0.5, "status": 200},
        {"time": 1700000003.0, "request_time": "2.75"},
        {"time": "2023-11-14T22:13:24.000Z"},
        {"time": "2023-11-14T23:13:25+01:00"},
    )
    assert read_trace(trace(tmp_path, *map(json.dumps, lines))).seconds == pytest.approx((0, 0.75, 3.75, 4.75))


def test_all_faulty_lines_are_named(tmp_path: Path) -> None:
    path = trace(tmp_path, "0.1", "", "soon", "nan", "-1", "0.5", "0.2", "1,2")
    with raises(InputError, "trace.invalid") as caught:
        read_trace(path)
    numbers = [problem.message.partition(":")[0] for problem in caught.value.problems]
    assert numbers == ["line 2", "line 3", "line 4", "line 5", "line 8", "line 7"]
    assert "line 7: 0.2 s is before line 6, 0.5 s" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["", "7", "{", "{}", '{"time": null}', '{"time": true}', '{"time": "noon"}', '{"time": "2023-11-14T22:13:24"}',
     '{"time": 5, "request_time": "-"}'],
)  # fmt: skip
def test_a_log_line_without_a_time_is_refused(line: str, tmp_path: Path) -> None:
    with raises(InputError, "trace.invalid", "line 2"):
        read_trace(trace(tmp_path, '{"time": 1}', line, '{"time": 2}'))


def test_only_the_first_problems_are_shown(tmp_path: Path) -> None:
    with raises(InputError, "trace.invalid", "line 10", "and 5 more"):
        read_trace(trace(tmp_path, *["x"] * 15))


def test_what_has_no_times_is_refused(tmp_path: Path) -> None:
    with raises(InputError, "trace.empty"):
        read_trace(trace(tmp_path, ""))
    with raises(InputError, "trace.unreadable"):
        read_trace(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with raises(InputError, "trace.unreadable"):
        read_trace(tmp_path / "binary")


@pytest.mark.parametrize("last", ["1e300", "1700000000000"])
def test_a_trace_that_would_run_for_weeks_is_refused(last: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(f"1\n{last}\n")
    with raises(InputError, "trace.too_long", "604800 s apart"):
        read_trace(path)
