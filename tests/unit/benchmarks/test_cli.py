from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.commands.record_writer import RecordWriter
from benchmarks.commands.run import problem_of
from benchmarks.records.record import Record, check_writable, read_record, write_record
from benchmarks.report.report import write_report
from tests.errors import raises
from tritonkit.errors import ExternalError, InputError


@pytest.fixture
def record_file(record: Record, tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_record(path, record)
    return path


def test_the_table_shows_every_level_and_the_limit(record_file: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(record_file)])
    assert result.exit_code == 0
    for word in ("150.0", "321.4", "80%", "2 errors", "unstable", "limit: 400.0 images/s", "it <broke>"):
        assert word in result.stdout


def test_json_is_the_records_and_nothing_else(record: Record, record_file: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(record_file), str(record_file), "--json"])
    assert json.loads(result.stdout)["records"] == [record.model_dump(mode="json")] * 2


def test_html_is_written(record_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    result = CliRunner().invoke(app, ["report", str(record_file), "--html", str(page)])
    assert result.stdout == f"report: {page}\n"
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "cats", "--concurrency", "0"], 2, "--concurrency 0"),
        (["run", "cats", "--url", "nowhere"], 2, "HOST:PORT"),
        (["run", "cats", "--url", "127.0.0.1:1"], 3, "no Triton answers"),
        (["run", "cats", "--max-windows", "2"], 2, "--max-windows"),
        (["run", "cats:new"], 2, "MODEL:VERSION"),
        (["run", "cats", "--rate", "5", "--concurrency", "5"], 2, "--concurrency and --rate"),
        (["run", "cats", "--url", "127.0.0.1:1", "--against", "none.json"], 2, "none.json"),
        (["run", "cats", "--url", "127.0.0.1:1", "--against", "cats"], 2, "the measured model itself"),
        (["report", "missing.json"], 2, "missing.json"),
        (["tune", "cats", "--url", "127.0.0.1:1"], 2, "--p99-ms"),
        (
            ["tune", "cats", "--url", "127.0.0.1:1", "--p99-ms", "9", "--target", "latency", "--rate", "1:8"],
            2,
            "one level",
        ),
        (["tune", "cats", "--url", "127.0.0.1:1", "--p99-ms", "9", "--rate", "1", "--concurrency", "1"], 2, "--rate"),
        (["tune", "cats", "--url", "127.0.0.1:1", "--p99-ms", "9"], 3, "no Triton answers"),
    ],
)
def test_errors_say_what_and_set_the_exit_code(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code
    assert message in result.stderr


def test_a_place_that_cannot_be_written_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "record.json", tmp_path, Path("/dev/full")):
        result = CliRunner().invoke(app, ["run", "cats", "--url", "127.0.0.1:1", "--output", str(output)])
        assert result.exit_code == 2
        assert str(output) in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_the_outside(record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with raises(ExternalError, "output.unwritable", "r.json", os.strerror(errno.ENOSPC)):
            check_writable(disk / "r.json")
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        writer = RecordWriter(disk / "r.json", 1, None)
        (disk / "fill").write_bytes(bytes(1 << 20))
        writer([record])
        with pytest.raises(typer.Exit) as ended:
            writer.finish(as_json=False)
        output = capsys.readouterr()
        assert (ended.value.exit_code, output.err.count("error: ")) == (3, 1)
        assert "321.4" in output.out
        with raises(ExternalError, "output.unwritable", "r.html"):
            write_report(disk / "r.html", [record])
        assert [path.name for path in disk.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_record_that_is_not_alike_ends_the_run_after_its_first_level(record: Record, tmp_path: Path) -> None:
    other = record.model_copy(update={"environment": record.environment.model_copy(update={"cpu": "Other CPU"})})
    writer = RecordWriter(tmp_path / "r.json", 1, other)
    with raises(InputError, "record.unlike", "Test CPU"):
        writer([record])
    assert read_record(tmp_path / "r.json") == record


def test_two_records_are_compared(record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = RecordWriter(tmp_path / "r.json", 2, None)
    writer([record, record])
    comparison = writer.finish(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert comparison is not None
    assert (len(document["records"]), document["comparison"]["verdict"]) == (2, comparison.verdict)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r-against.json", "r.json"]


@pytest.mark.parametrize(
    ("changes", "load", "words"),
    [
        ({}, {}, None),
        ({"errors": 2}, {}, "2 requests failed"),
        ({"refused": "too late"}, {}, "p99 is refused: too late"),
        ({"refused": "too late"}, {"p99_bound_ms": 50}, "no rate"),
        ({}, {"p99_bound_ms": 1}, "no rate"),
        ({}, {"p99_bound_ms": 50}, None),
    ],
)
def test_a_record_that_is_no_answer_is_a_problem(
    record: Record, changes: dict[str, object], load: dict[str, object], words: str | None
) -> None:
    level = record.levels[0].model_copy(update=changes)
    settings = record.load.model_copy(update=load)
    problem = problem_of(record.model_copy(update={"levels": (level,), "load": settings}))
    assert problem is None if words is None else words in str(problem)
