"""Answer files: existing files are lost neither to a new job nor to a job that was killed at any step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.outputs.job import Job, JobSettings, open_job
from tests.errors import error_codes
from tests.fixture_types import Command
from tritonkit.tasks import Answer

KILLER = Path(__file__).with_name("killed_writer.py")


@contextmanager
def job(folder: Path, *names: str, overwrite: bool = False) -> Iterator[Job]:
    """Open outputs of these names as `client infer` does."""
    paths = [folder / name for name in names]
    settings = JobSettings(model="m", version="1", spec="0" * 64, top=1, outputs=names)
    example = Answer({"embedding": [1.0] * 4}, embedding=np.ones(4, np.float32))
    with open_job(paths, settings, example, lambda message: None, overwrite) as opened:
        yield opened


@pytest.mark.parametrize("suffixes", [(".npy",), (".jsonl", ".csv")])
def test_files_are_those_of_an_undisturbed_writer_when_it_is_killed_at_any_step(
    tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    program = [sys.executable, str(KILLER), str(tmp_path / "job"), *suffixes]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    completed = subprocess.run(program, capture_output=True, text=True, timeout=100, env=environment)
    assert completed.returncode == 0, completed.stderr
    for found in json.loads(completed.stdout).values():
        assert found["steps"] >= 9
        assert found["wrong"] == {}, completed.stderr


def test_output_that_is_the_list_on_standard_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("x.png\n")
    words = ["infer", "-", "--from", "m.onnx", "--overwrite", "--output", str(tmp_path / "list.csv"), "--json"]
    program = [sys.executable, "-c", "from client.cli import app; app()", *words]
    with (tmp_path / "list.csv").open() as listed:
        completed = subprocess.run(program, stdin=listed, capture_output=True, text=True, timeout=100)
    assert completed.returncode == 2
    assert json.loads(completed.stdout)["error"]["code"] == "output.is_input"
    assert "list.csv: " in completed.stderr
    assert (tmp_path / "list.csv").read_text() == "x.png\n"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (["--url", "127.0.0.1:8001"], "--url"),
        (["--tls-ca", "a.pem", "--tls-cert", "c.pem", "--tls-key", "k.pem"], "--tls-ca, --tls-cert, --tls-key"),
        (["--wait", 5, "--deadline", 1, "--patience", 0], "--wait, --deadline, --patience"),
        (["--no-shared-memory"], "--no-shared-memory"),
        (["--shared-memory"], "--shared-memory"),
    ],
)
def test_option_about_a_server_is_refused_when_a_file_answers(
    command: Command, photos: Path, options: list[object], flags: str
) -> None:
    result = command("client", "infer", photos, "--from", "m.onnx", *options, "--json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert error_codes(result) == {"option.from_server"}
    assert result.stderr.strip().endswith(f"; omit {flags}")


def test_every_is_refused_when_the_arguments_contain_no_video(command: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{photos / 'cat.jpg'}\n")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    refused = command("client", "infer", photos, photos / "*.jpg", "--every", 25, "--from", "m.onnx", "--json")
    assert (refused.exit_code, error_codes(refused)) == (2, {"option.every_unused"})
    for argument in (tmp_path / "list.csv", tmp_path / "*.mp4", "https://127.0.0.1:9/clip.mp4"):
        assert "--every" not in command("client", "infer", argument, "--every", 5, "--from", "m.onnx").stderr
