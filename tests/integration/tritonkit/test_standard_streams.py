"""Standard output with a limited encoding, on a full disk, closed, or with a closed pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT

PROGRAM = """
import sys
from tritonkit.system.console import application, JsonOption, print_json, print_text, progress, reports_errors, table

app = application("Print.")

@app.command()
@reports_errors
def answer(rows: int = 1, as_json: JsonOption = False) -> None:
    with progress("working …"):
        pass
    names = ["µs 😀 \\udcff"] * rows
    if as_json:
        print_json(names)
    else:
        table(["picture", "answer"], [[name, "a" * 100] for name in names])
        print_text("… and more")

app()
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return f"{sys.executable} {path}"


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, encoding=encoding, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_stdout_lacks_are_escaped(program: str, encoding: str) -> None:
    table = shell(program, PYTHONIOENCODING=encoding)
    assert (table.returncode, table.stdout.splitlines()[-1]) == (0, "\\u2026 and more")
    document = shell(f"{program} --json", PYTHONIOENCODING=encoding)
    assert document.stdout.isascii()
    assert json.loads(document.stdout)[0].startswith("µs 😀")


@pytest.mark.parametrize("options", ["", "--json", "--rows 2000", "--help"])
def test_full_stdout_is_one_line_and_the_outside(program: str, options: str) -> None:
    ended = shell(f"{program} {options} > /dev/full")
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1] == "error: standard output: cannot be written (No space left on device)"
    assert ended.stderr.count("error") == 1
    assert "Traceback" not in ended.stderr


def test_reader_that_goes_away_is_no_error(program: str) -> None:
    ended = shell(f"set -o pipefail; {program} --rows 5000 2>&1 | head -1; echo ${{PIPESTATUS[0]}}")
    assert ended.stdout.splitlines()[-1] == "0"
    assert len(ended.stdout.splitlines()) == 2
    assert ended.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "2> /dev/full", "<&- >&- 2>&-"])
def test_closed_stream_is_no_error(program: str, closed: str) -> None:
    ended = shell(f"{program} {closed}")
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
