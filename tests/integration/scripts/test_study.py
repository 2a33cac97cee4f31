"""The harness of studies and drills: options, record, checks, turns and the cost of a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from benchmarks.studies.study import Result, command, in_turns, run_process
from tests.errors import raises
from tritonkit.errors import TritonkitError


def study(size: Annotated[int, typer.Option(help="How large.")] = 2, names: list[str] | None = None) -> Result:
    """Measure nothing."""
    record = {"size": size, "names": names, "long": [0] * 99, "machine": {"triton": "2.51.0"}}
    return Result(record, {"small": size < 5}, hidden=("long",), packages=("numpy",))


@pytest.mark.parametrize(("size", "exit_code"), [(4, 0), (5, 1)])
def test_command_writes_the_record_and_exits_by_its_checks(
    size: int, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "study",
        "--size",
        str(size),
        "--names",
        "a",
        "--names",
        "b",
        "--output",
        str(tmp_path / "record.json"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        command(study)()
    assert ended.value.code == exit_code
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["size"], record["names"], len(record["long"])) == (size, ["a", "b"], 99)
    assert {"cpu", "cores", "memory_gib", "python", "load_average", "numpy", "triton"} == record["machine"].keys()
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == ("ok   small", "FAIL small")[exit_code]
    assert '"long"' not in printed


def test_command_writes_the_page_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table() -> Result:
        return Result({}, page="# Models\n")

    monkeypatch.setattr(sys, "argv", ["table", "--output", str(tmp_path / "models.md")])
    with pytest.raises(SystemExit):
        command(table)()
    assert (tmp_path / "models.md").read_text() == "# Models\n"


def test_methods_alternate_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_turns({"a": lambda: 1, "b": lambda: 2}, rounds=3) == {"a": [1, 1, 1], "b": [2, 2, 2]}
    assert capsys.readouterr().out.split()[::2] == ["b:", "a:", "a:", "b:", "b:", "a:"]


def test_cost_of_a_process_counts_its_children() -> None:
    work = "data = bytearray(100 << 20); sum(range(3_000_000)); import time; time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); print('done')"
    cost, output = run_process([sys.executable, "-c", parent], sample_s=0.01)
    assert output == "done\n"
    assert cost.peak_mib > 100
    assert cost.cpu_seconds > 0.02
    assert cost.seconds > 0.3


def test_output_is_told_when_a_process_fails() -> None:
    with raises(TritonkitError, "drill.command_failed"):
        run_process([sys.executable, "-c", "raise SystemExit('no')"])
