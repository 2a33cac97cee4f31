"""`bench run` on a real Triton, and the report of what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Command = Callable[..., Result]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_bench_measures_a_served_model_beside_its_limit(
    command: Command, served: str, served_http: str, repository: Path, tmp_path: Path, protocol: str
) -> None:
    url = served if protocol == "grpc" else served_http
    record, page = tmp_path / "record.json", tmp_path / "report.html"
    timing = ["--window-s", 0.5, "--max-windows", 3, "--concurrency", "1,8"]
    where = ["--url", url, "--repository", repository, "--output", record]
    result = command("bench", "run", "resnet18", *where, *timing)
    assert result.exit_code == 0, result.stderr
    written = json.loads(record.read_text())
    assert [level["concurrency"] for level in written["levels"]] == [1, 8]
    for level in written["levels"]:
        assert level["errors"] == 0
        assert level["requests"] > 0
        assert level["share_of_limit"] == pytest.approx(level["images_per_s"] / written["limit"]["images_per_s"])
    assert written["levels"][1]["mean_batch"] > 1, "Triton batched what was in flight"
    assert written["subject"]["protocol"] == protocol
    assert command("bench", "report", record, "--html", page).exit_code == 0
    assert "resnet18" in page.read_text()


def test_bench_says_why_when_there_is_no_limit(command: Command, served: str, photos: Path, tmp_path: Path) -> None:
    timing = ["--window-s", 0.3, "--max-windows", 3, "--concurrency", "2"]
    where = ["--url", served, "--repository", tmp_path, "--images", photos]
    result = command("bench", "run", "resnet18", *where, *timing, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["limit"] is None
    assert "give --repository or --artifact" in document["limit_missing"]
