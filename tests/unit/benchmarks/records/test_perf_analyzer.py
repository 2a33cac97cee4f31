from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.records.perf_analyzer import read_perf_analyzer
from tests.errors import raises
from tritonkit.errors import InputError

BREAKDOWN = "Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,Server Compute Infer"
REST = "Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
HEADER = f"Concurrency,Inferences/Second,{BREAKDOWN},{REST}"
ROWS = """
2,20.5799,26,22079,17566,83,55990,674,5,90271,149133,178725,204044
1,20.9749,39,4991,74,69,42605,393,5,44608,57325,64727,146147
"""
"""As perf_analyzer 2.50 wrote them: by falling throughput, in microseconds."""


def write(folder: Path, text: str) -> Path:
    path = folder / "perf.csv"
    path.write_text(text)
    return path


def test_levels_are_read_in_order_of_load(tmp_path: Path) -> None:
    result = read_perf_analyzer(write(tmp_path, HEADER + ROWS))
    assert result.name == "perf_analyzer perf.csv"
    assert [level.concurrency for level in result.levels] == [1, 2]
    level = result.levels[0]
    assert (level.images_per_s, level.p50_ms, level.p99_ms) == (20.9749, 44.608, 146.147)
    assert level.server is not None
    assert (level.server.queue_us, level.server.infer_us, level.network_us) == (74, 42605, 5035)


def test_rates_and_the_columns_of_other_options_are_read(tmp_path: Path) -> None:
    header = f"Request Rate,Inferences/Second,{BREAKDOWN},{REST.replace('p99', 'p97 latency,p99')},Avg latency"
    row = "49.5,49.9455,22,873,136,62,1122,230,4,2367,2789,3077,3500,3708,2452"
    (level,) = read_perf_analyzer(write(tmp_path, f"{header}\n{row}\n")).levels
    assert (level.rate, level.concurrency, level.p99_ms, level.load) == (49.5, None, 3.708, "49.5 requests/s")


def test_a_csv_without_the_breakdown_is_read(tmp_path: Path) -> None:
    header = "Concurrency,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency"
    (level,) = read_perf_analyzer(write(tmp_path, f"{header}\n1,10,2,3,4,5\n")).levels
    assert (level.server, level.network_us) == (None, None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no column Concurrency or Request Rate", "no column p99 latency"]),
        ("Concurrency,p50 latency\n1,2\n", ["no column Inferences/Second", "no column p90 latency"]),
        (HEADER, ["no rows"]),
        (HEADER + "\n1,fast" + ",1" * 11 + "\n1,2,3\n", ["line 2: Inferences/Second is 'fast'", "line 3"]),
        (HEADER + "\n1,nan" + ",1" * 11, ["line 2: Inferences/Second is 'nan'"]),
    ],
)
def test_all_problems_of_a_csv_are_in_one_error(text: str, parts: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with raises(InputError, "perf_analyzer.invalid", str(path), *parts):
        read_perf_analyzer(path)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\x00")
    for path in (tmp_path / "image.csv", tmp_path / "missing.csv", tmp_path):
        with raises(InputError, "perf_analyzer.unreadable", str(path)):
            read_perf_analyzer(path)


def test_a_csv_is_compared_with_a_warning(tmp_path: Path) -> None:
    path = str(write(tmp_path, HEADER + ROWS))
    result = CliRunner().invoke(app, ["compare", path, path])
    assert result.exit_code == 0, result.stderr
    assert "whether both are alike is not checked" in result.stdout
    assert "verdict: not judged" in result.stdout


def test_a_load_without_answers_is_not_compared(tmp_path: Path) -> None:
    path = str(write(tmp_path, HEADER + ROWS + "4" + ",0" * 12))
    result = CliRunner().invoke(app, ["compare", path, path])
    assert result.exit_code == 0, result.stderr
    assert "concurrency 4 is not compared: old answered no request" in result.stdout
