"""`train search` with real trainings: in a file, and by two workers in a real PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from tests.postgres import PostgresServer
from tests.programs import ROOT
from train.config.loading import load_config
from train.search.space import load_search
from train.search.storage import study_address
from train.search.study import SearchGoal, SearchStudy

GRID = {"parameters": {"optimizer.lr": [0.001, 0.01]}, "sampler": "grid"}


def test_search_trains_each_trial_and_writes_the_best_configuration(
    command: Command, copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data"), search=GRID)
    done = command("train", "search", path)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "tiny" / "search"
    best = Path(done.stdout.splitlines()[-1])
    assert best == folder / "best.yaml"
    assert "val_accuracy" in done.stdout
    assert "trial 1: " in done.stderr
    assert "2 of 2 trials have ended" in done.stderr

    again = command("train", "search", path, "--json")  # all trials have ended
    result: dict[str, Any] = json.loads(again.stdout)
    assert [trial["state"] for trial in result["trials"]] == ["complete", "complete"]
    assert [trial["values"] for trial in result["trials"]] == [{"optimizer.lr": 0.001}, {"optimizer.lr": 0.01}]
    values = [trial["value"] for trial in result["trials"]]
    assert result["best"]["value"] == max(values) > 0
    assert Path(result["best"]["checkpoint"]).is_file()
    assert load_config(best).optimizer.lr == result["best"]["values"]["optimizer.lr"]
    assert "Search of tiny" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "arguments", "code"),
    [
        ({}, (), "search.missing_section"),
        ({"search": {"parameters": {"model.size": [1]}}}, (), "search.values"),
        ({"search": GRID}, ("--storage", "postgresql://ada:secret@db/x"), "database.password"),
        ({"search": GRID}, ("--storage", "postgresql://127.0.0.1:1/x"), "search.storage_failed"),
        ({"search": GRID}, ("--folder", ROOT), "experiment.folder_not_empty"),
    ],
)
def test_search_is_refused_before_the_first_trial_when_it_cannot_run(
    changes: dict[str, Any],
    arguments: tuple[object, ...],
    code: str,
    command: Command,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    path = write_config(tmp_path / "config.yaml", tmp_path / "data", **changes)
    done = command("train", "search", path, *arguments, "--json")
    assert json.loads(done.stdout)["error"]["code"] == code
    assert done.exit_code == (3 if code == "search.storage_failed" else 2)


@pytest.mark.drill
def test_killed_search_of_two_workers_in_postgresql_loses_no_trial(
    postgres: PostgresServer,
    copy_digits: CopyDigits,
    write_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITONKIT_STUDY", postgres.create_database())
    parameters = {"optimizer.lr": [0.001, 0.01], "batch_size": [8, 16]}
    search = {"parameters": parameters, "sampler": "grid", "pruner": "none", "metric": "val_accuracy"}
    path = write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data"), epochs=2, search=search)
    folder = tmp_path / "search"
    program = [sys.executable, "-P", "-m", "train.cli"]
    arguments = [*program, "search", path, "--folder", folder, "--workers", "2", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment) as killed:
        _wait_for(lambda: len(list(folder.glob("trial-*/tiny/1/splits/data.json"))) == 2, killed)
        for process in [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]:
            process.kill()
    space = load_search(path)
    study = SearchStudy(study_address(None, folder), "tiny", space, SearchGoal("val_accuracy", "maximize"), folder)
    started = [trial for trial in study.trials() if not trial.state.is_finished() and trial.params]
    assert len(started) == 2

    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    values = [(trial["values"]["batch_size"], trial["values"]["optimizer.lr"]) for trial in trials]
    assert values == [(8, 0.001), (8, 0.01), (16, 0.001), (16, 0.01)]
    assert all(list(trial["epochs"]) == ["1", "2"] for trial in trials)
    assert all(Path(trial["checkpoint"]).is_file() for trial in trials)
    workers = {trial.user_attrs["worker"] for trial in study.trials()}
    assert len(workers) == 2  # both took part
    # The trainings that were killed went on in their own folders.
    assert all(trial["run"] == str(folder / f"trial-{trial['number']}" / "tiny" / "1") for trial in trials)


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
