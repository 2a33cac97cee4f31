"""The commands of `train`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE

from tests.fixture_types import Command
from train.engine.fit import FitResult

TRAIN = "from train.cli import app; app()"


def test_fit_prints_the_checkpoint_last_when_done(
    command: Command, folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    result = command("train", "fit", write_config(tmp_path / "config.yaml", folder), "name=renamed")
    assert result.exit_code == 0
    path = Path(result.stdout.splitlines()[-1])
    assert path == tmp_path / "runs" / "renamed" / "1" / "best.safetensors"
    assert path.is_file()
    assert "epoch 1/1" in result.stderr
    assert "epoch 1/1" not in result.stdout


def test_fit_prints_one_document_with_json(
    command: Command, folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    result = command("train", "fit", write_config(tmp_path / "config.yaml", folder), "--json")
    document = json.loads(result.stdout)
    assert set(document) == {"checkpoint", "run", "metrics", "warnings", "exported", "report"}
    assert {"val_accuracy", "val_macro_f1", "test_accuracy", "test_macro_f1"} <= set(document["metrics"])


def test_test_prints_accuracy_and_f1_when_run(command: Command, trained: FitResult) -> None:
    result = command("train", "test", trained.checkpoint)
    assert result.exit_code == 0
    assert "accuracy" in result.stdout
    assert "macro_f1" in result.stdout


def test_test_measures_other_data_when_given(command: Command, trained: FitResult, folder: Path) -> None:
    result = command("train", "test", trained.checkpoint, "--data", folder, "--json")
    document = json.loads(result.stdout)
    assert (document["images"], document["data"]) == (36, str(folder))
    assert set(document["metrics"]) == {"accuracy", "macro_f1", "auroc", "map", "f1/0", "f1/1", "f1/7"}


def test_commands_exit_with_2_when_the_input_is_wrong(command: Command, tmp_path: Path, trained: FitResult) -> None:
    for words in (("fit", tmp_path / "no.yaml"), ("test", tmp_path / "no.safetensors"), ("test", tmp_path)):
        result = command("train", *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ")
    result = command("train", "test", trained.checkpoint, "--data", tmp_path / "no", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["problems"][0]["code"]) == ("DataError", "data.not_found")


def test_runs_leave_no_checkpoint_when_stopped(folder: Path, tmp_path: Path, write_config: Callable[..., Path]) -> None:
    config = write_config(tmp_path / "config.yaml", folder, epochs=1000)
    words = [sys.executable, "-c", TRAIN, "fit", str(config)]
    expected = {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGKILL: -signal.SIGKILL}
    names = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    # A test runner may ignore SIGINT, and its child processes would inherit that.
    heed_keyboard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    runs = {
        sent: subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, preexec_fn=heed_keyboard)
        for sent in expected
    }
    for sent, run in runs.items():
        assert run.stderr is not None
        assert "epoch 1/1000" in run.stderr.readline()
        run.send_signal(sent)
        stdout, stderr = run.communicate(timeout=60)
        assert (run.returncode, stdout) == (expected[sent], "")
        assert "Traceback" not in stderr
        if sent in names:
            assert f"{names[sent]}; " in stderr
            assert "train resume " in stderr
    assert {path.parent.name for path in tmp_path.rglob("runs/tiny/*/config.yaml")} == {"1", "2", "3"}
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_run_names_the_resume_command_when_its_process_group_is_terminated(
    folder: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    config = write_config(tmp_path / "config.yaml", folder, epochs=1000, workers=1)
    words = [sys.executable, "-c", TRAIN, "fit", str(config)]
    run = subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    assert "epoch 1/1000" in run.stderr.readline()
    os.killpg(run.pid, signal.SIGTERM)
    stdout, stderr = run.communicate(timeout=60)
    assert (run.returncode, stdout) == (130, "")
    assert "SIGTERM; " in stderr
    assert f"train resume {tmp_path / 'runs' / 'tiny' / '1'}" in stderr


def test_test_names_the_checkpoint_when_a_run_is_given(command: Command, trained: FitResult) -> None:
    result = command("train", "test", trained.run)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{trained.run}: " in result.stderr
    assert str(trained.checkpoint) in result.stderr


def test_test_tells_what_cannot_be_measured_when_classes_are_absent(
    command: Command, trained: FitResult, folder: Path
) -> None:
    shutil.rmtree(folder / "7")
    result = command("train", "test", trained.checkpoint, "--data", folder, "--json")
    metrics = json.loads(result.stdout)["metrics"]
    assert metrics["f1/7"] is None
    assert metrics["auroc"] > 0.7  # the third class would count as 0
    assert "UserWarning" not in result.stderr
    measured = command("train", "test", trained.checkpoint, "--data", folder)
    assert ["f1/7", "-"] in [line.split() for line in measured.stdout.splitlines()]
