"""The output of `client infer` on a terminal: progress, a table, and a summary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.fixture_types import Command
from tritonkit.system.console import track_progress


def test_progress_is_lines_on_stderr_when_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track_progress("ab", "answering", 2, every_s=0)) == ["a", "b"]
    assert list(track_progress("c", "answering", None, every_s=0)) == ["c"]
    assert list(track_progress("d", "answering", 1)) == ["d"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["answering: 1 of 2", "answering: 2 of 2", "answering: 1"]


@pytest.mark.parametrize("readable", [True, False])
def test_errors_stand_below_the_answers_when_pictures_cannot_be_read(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path, readable: bool
) -> None:
    (tmp_path / "a.jpg").write_text("none")
    if readable:
        shutil.copy(photos / "cat.jpg", tmp_path / "b.jpg")
    result = command("client", "infer", tmp_path, "--from", checkpoint)
    assert result.exit_code == 1
    assert result.stderr == "1 file skipped: 1 .safetensors\n"
    table = [line for line in result.stdout.splitlines() if not line.startswith(" ")]  # a long error is wrapped
    *lines, last = [line.split()[:2] for line in table]
    answers = [["image", "answer"], [str(tmp_path / "b.jpg"), lines[1][1]]] if readable else []
    assert lines == [*answers, ["image", "error"], [str(tmp_path / "a.jpg"), lines[-1][1]]]
    assert last == [str(int(readable)), "answered,"]


def test_last_line_names_the_version_that_answered(command: Command, served: str, photos: Path) -> None:
    result = command("client", "infer", photos / "cat.jpg", "--model", "imagenet", "--url", served)
    assert result.stdout.splitlines()[-1] == f"1 answered, 0 failed, by {served}/imagenet, version 1"


@pytest.mark.parametrize("first", ["https://example.com/cat.jpg", "{photos}/cat.jpg"])
def test_error_of_a_list_in_a_file_names_the_command_that_reads_it(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path, first: str
) -> None:
    listed = tmp_path / "my urls.txt"
    listed.write_text(first.format(photos=photos) + "\n")
    result = command("client", "infer", listed, "--from", checkpoint, "--json")
    assert result.exit_code == 1
    assert f"client infer - < '{listed}'" in json.loads(result.stdout)["rows"][0]["error"]


def test_file_with_the_suffix_of_a_list_is_read_as_an_image_when_it_is_no_list(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "cat.jpg", tmp_path / "cat.txt")
    (tmp_path / "notes.txt").write_text("Buy milk.\n")
    result = command("client", "infer", tmp_path / "cat.txt", tmp_path / "notes.txt", "--from", checkpoint)
    assert "1 answered, 1 failed" in result.stdout
    assert "client infer -" not in result.stdout
