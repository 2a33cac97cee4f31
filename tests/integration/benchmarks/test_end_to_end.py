"""`bench run` on a real Triton, and the report of what it measured."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scripts.drills.tcp_proxy import open_proxy, stalling
from tests.fixture_types import Command
from tests.programs import console_script, put_nvidia_smi_on_path


def test_bench_measures_a_served_model_beside_its_limit(
    command: Command, served: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvidia_smi_on_path(tmp_path, monkeypatch, "0, 50, 1024, 100.0")
    monkeypatch.setattr("benchmarks.limit.POINT_S", 0.3)
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
    ("load", "end", "code", "reason"),
    [
        ("--concurrency", signal.SIGINT, 130, "stopped by Ctrl-C"),
        ("--rate", signal.SIGTERM, 130, "stopped by SIGTERM"),
        ("--rate", None, 3, "Start one with `server up`"),
    ],
)
def test_bench_keeps_what_it_has_measured_when_it_ends_early(
    command: Command,
    served: str,
    photos: Path,
    tmp_path: Path,
    load: str,
    end: signal.Signals | None,
    code: int,
    reason: str,
) -> None:
    """By a signal, or because the server is gone."""
    record, levels = tmp_path / "record.json", ",".join(map(str, range(10, 210)))
    program = [console_script("bench"), "run", "resnet18", load, levels]
    timing = ["--window-s", "0.4", "--max-windows", "3", "--images", str(photos), "--repository", str(tmp_path)]
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
    assert level["server"]["infer_us"] > 0
    assert record["load"]["encoded"]
    assert "resnet18" in record["limit_missing"]


def test_a_stall_of_the_server_is_in_p99_of_an_open_loop(
    command: Command, served: str, photos: Path, tmp_path: Path
) -> None:
    """0.4 s in every 1.2 s; the client has two processes."""
    with open_proxy(int(served.rpartition(":")[2])) as proxy, stalling(proxy, seconds=0.4, every_s=1.2):
        target = ["--url", f"127.0.0.1:{proxy.port}", "--repository", tmp_path, "--images", photos]
        timing = ["--rate", 12, "--window-s", 1.2, "--max-windows", 3, "--processes", 2, "--json"]
        result = command("bench", "run", "resnet18", *target, *timing)
    (level,) = json.loads(result.stdout.partition('{\n  "error"')[0])["levels"]
    assert level["p99_ms"] > 300
    assert level["from_send"]["p99_ms"] <= level["p99_ms"]
    assert (level["rate"], level["errors"], level["client"]["processes"]) == (12, 0, 2)
    assert level["slip"]["p50_ms"] < 100


def test_two_models_are_measured_in_turns_and_compared(
    command: Command, served: str, photos: Path, tmp_path: Path
) -> None:
    target = ["--url", served, "--repository", tmp_path, "--images", photos, "--output", tmp_path / "record.json"]
    load = ["--concurrency", 1, "--window-s", 0.4, "--max-windows", 3, "--against", "efficientnet_b0:1"]
    result = command("bench", "run", "resnet18", *target, *load)
    new, old = (json.loads((tmp_path / f"record{name}.json").read_text()) for name in ("", "-against"))
    assert (new["subject"]["model"], old["subject"]["model"]) == ("resnet18", "efficientnet_b0")
    assert new["run_id"] == old["run_id"]
    assert new["incomplete"] is old["incomplete"] is None
    assert "verdict: " in result.stdout
    assert result.exit_code == int("verdict: regression" in result.stdout), result.stderr


def test_a_trace_is_replayed_through_shared_memory(command: Command, served: str, photos: Path, tmp_path: Path) -> None:
    trace = tmp_path / "log.jsonl"
    trace.write_text("".join(f'{{"time": {1700000000 + time_s}}}\n' for time_s in (0, 0.1, 0.2, 0.3, 1.8)))
    target = ["--url", served, "--repository", tmp_path, "--images", photos]
    result = command("bench", "run", "resnet18", *target, "--trace", trace, "--shared-memory", "--json")
    record = json.loads(result.stdout.partition('{\n  "error"')[0])
    (level,) = record["levels"]
    assert (record["load"]["arrivals"], record["load"]["transport"]) == ("trace", "shared_memory")
    assert (level["requests"], level["errors"]) == (5, 0)
    assert "pause of 1.5 s" in level["remark"]


def test_the_server_scenario_finds_a_rate(command: Command, served: str, photos: Path, tmp_path: Path) -> None:
    target = ["--url", served, "--repository", tmp_path, "--images", photos, "--window-s", 0.5, "--json"]
    result = command("bench", "run", "resnet18", *target, "--scenario", "Server", "--p99-ms", 400)
    record = json.loads(result.stdout.partition('{\n  "error"')[0])
    passed = [level["rate"] for level in record["levels"] if level["p99_ms"] <= 400 and not level["refused"]]
    assert (record["load"]["scenario"], record["load"]["p99_bound_ms"]) == ("Server", 400)
    assert 2 <= len(record["levels"]) <= 12
    assert result.exit_code == (not passed)


def test_failed_requests_are_counted_and_shown(command: Command, served: str, photos: Path, tmp_path: Path) -> None:
    """A picture of three that the server cannot decode."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    good, other, *_ = sorted(photos.iterdir())
    for name, content in (("a", good.read_bytes()), ("b", other.read_bytes()), ("c", good.read_bytes()[:300])):
        (pictures / f"{name}.jpg").write_bytes(content)
    timing = ["--rate", 20, "--window-s", 0.3, "--max-windows", 3, "--json"]
    result = command("bench", "run", "resnet18_encoded", "--url", served, "--images", pictures, *timing)
    assert result.exit_code == 1, result.stderr
    (level,) = json.loads(result.stdout)["levels"]
    assert level["errors"] > 0  # of the whole level, with its warm-up
    assert level["requests"] > 0
    assert "requests failed" in result.stderr
    assert level["first_error"]
