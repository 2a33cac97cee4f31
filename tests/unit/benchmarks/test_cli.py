from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.records.record import Record, check_writable, write_record
from tests.errors import raises
from tritonkit.errors import ExternalError


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
        (["report", "missing.json"], 2, "missing.json"),
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
def test_a_full_disk_is_the_outside(record: Record, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with raises(ExternalError, "output.unwritable", "r.json", os.strerror(errno.ENOSPC)):
            check_writable(disk / "r.json")
        (disk / "fill").write_bytes(bytes(16384))
        with raises(ExternalError, "output.unwritable"):
            write_record(disk / "r.json", record)
        assert [path.name for path in disk.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", disk], check=True)
