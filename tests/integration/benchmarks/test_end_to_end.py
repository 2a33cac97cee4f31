"""`bench run` on a real Triton, and the report of what it measured."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scripts.drills.tcp_proxy import open_proxy
from tests.fixture_types import Command
from tests.programs import console_script, put_nvidia_smi_on_path


def test_bench_measures_a_served_model_beside_its_limit(
    command: Command, served: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvidia_smi_on_path(tmp_path, monkeypatch, "0, 50, 1024, 100.0")
    record, page = tmp_path / "record.json", tmp_path / "report.html"
    timing = ["--window-s", 0.5, "--max-windows", 3, "--concurrency", "1,8"]
    arguments = ["--url", served, "--repository", repository, "--output", record]
    result = command("bench", "run", "resnet18", *arguments, *timing)
    assert result.exit_code == 0, result.stderr
    written = json.loads(record.read_text())
    assert [level["concurrency"] for level in written["levels"]] == [1, 8]
    for level in written["levels"]:
        assert level["errors"] == 0
        assert level["requests"] > 0
        assert level["share_of_limit"] == pytest.approx(level["images_per_s"] / written["limit"]["images_per_s"])
        server = level["server"]
        parts = [server[f"{part}_us"] for part in ("queue", "input", "infer", "output")]
        assert 0 < sum(parts) <= server["request_us"]
        # Not exactly the same requests: Triton counts those that ended between two of its answers.
        rest_us = level["mean_ms"] * 1e3 - server["request_us"]
        assert rest_us > -0.2 * server["request_us"]
        assert level["client"]["network_us"] == pytest.approx(max(0, rest_us))
        assert level["gpu"]["watts"] == 100
        assert level["gpu"]["joules_per_image"] == pytest.approx(100 / level["images_per_s"], rel=0.05)
    best = max(level["share_of_limit"] for level in written["levels"])
    assert (written["limit"]["exceeded"] is not None) == (best > 1)
    assert written["levels"][1]["server"]["mean_batch"] > 1, "Triton batched what was in flight"
    assert max(map(int, written["levels"][1]["server"]["batches"])) > 1
    assert written["subject"]["settings"]["max_batch_size"] == 8
    assert written["subject"]["protocol"] == "grpc"
    assert command("bench", "report", record, "--html", page).exit_code == 0
    text = page.read_text()
    again = ["--concurrency", "1,8", "--repository", str(repository), "--window-s", "0.5", "--max-windows", "3"]
    assert written["arguments"] == ["resnet18", *again, "--url", served]
    assert f"bench run {' '.join(written['arguments'])}" in text


def test_bench_says_why_when_there_is_no_limit(
    command: Command, served_http: str, photos: Path, tmp_path: Path
) -> None:
    timing = ["--window-s", 0.3, "--max-windows", 3, "--concurrency", "2"]
    arguments = ["--url", served_http, "--repository", tmp_path, "--images", photos]
    result = command("bench", "run", "resnet18", *arguments, *timing, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["limit"] is None
    assert (document["subject"]["protocol"], document["levels"][0]["errors"]) == ("http", 0)
    assert document["levels"][0]["requests"] > 0
    assert "--artifact" in document["limit_missing"]


def finished_levels(record: Path, process: subprocess.Popen[str]) -> int:
    """Wait until a record has its first level; how many it has."""
    while process.poll() is None and not record.is_file():
        time.sleep(0.05)
    assert record.is_file(), process.communicate()
    document = json.loads(record.read_text())
    assert "still running" in document["incomplete"]
    return len(document["levels"])


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (signal.SIGINT, 130, "stopped by Ctrl-C"),
        (signal.SIGTERM, 130, "stopped by SIGTERM"),
        (None, 3, "Start one with `server up`"),
    ],
)
def test_bench_keeps_what_it_has_measured_when_it_ends_early(
    command: Command, served: str, photos: Path, tmp_path: Path, end: signal.Signals | None, code: int, reason: str
) -> None:
    """By a signal, or because the server is gone."""
    record, levels = tmp_path / "record.json", ",".join(map(str, range(1, 201)))
    program = [console_script("bench"), "run", "resnet18", "--concurrency", levels]
    timing = ["--window-s", "0.1", "--max-windows", "3", "--images", str(photos), "--repository", str(tmp_path)]
    with open_proxy(int(served.rpartition(":")[2])) as proxy:
        arguments = ["--url", f"127.0.0.1:{proxy.port}", "--output", str(record)]
        process = subprocess.Popen(
            [*program, *timing, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        minimum = finished_levels(record, process)
        process.send_signal(end) if end else proxy.cut()
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert reason in stderr
    document = json.loads(record.read_text())
    assert len(document["levels"]) >= minimum
    assert reason in document["incomplete"]
    assert f"INCOMPLETE: {len(document['levels'])} of 200 levels; " in stdout
    page = tmp_path / "report.html"
    assert "INCOMPLETE: " in command("bench", "report", record).stdout
    assert command("bench", "report", record, "--html", page).exit_code == 0
    assert "INCOMPLETE: " in page.read_text()


@pytest.mark.parametrize("from_folder", [True, False])
def test_bench_measures_a_model_of_encoded_pictures(
    command: Command, served: str, repository: Path, photos: Path, from_folder: bool
) -> None:
    timing = ["--window-s", 0.2, "--max-windows", 3, "--concurrency", "2", "--json"]
    pictures = ["--images", photos] if from_folder else ["--repository", repository]
    result = command("bench", "run", "resnet18_encoded", "--url", served, *timing, *pictures)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    expected = f"files of {photos}" if from_folder else "as PNG"
    assert expected in record["load"]["images_source"]
    assert (record["load"]["generated"], record["limit"]) == (False, None)
    (level,) = record["levels"]
    assert level["errors"] == 0
    assert level["server"]["steps"]["resnet18"]["infer_us"] > 0
    assert "resnet18" in record["limit_missing"]
