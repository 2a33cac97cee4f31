"""`train folds`: the same figures in any order and after a kill, and out-of-fold predictions of all images."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixture_types import Command
from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.config.loading import load_config
from train.engine.run_folder import RunFolder
from train.experiments.folds import run_folds
from train.experiments.out_of_fold import PREDICTIONS_FILE, out_of_fold
from tritonkit.checkpoint import read_spec
from tritonkit.errors import DataError

RESULTS = ("folds.csv", PREDICTIONS_FILE, "data/1/train.csv", "data/2/val.csv")


@dataclass(frozen=True)
class Experiment:
    """A finished experiment of two folds, with its result as JSON."""

    config: Path
    folder: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def experiment(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory
) -> Experiment:
    root = tmp_path_factory.mktemp("folds")
    for part, start, count in (("train", 0, 12), ("val", 12, 4), ("test", 16, 6)):
        copy_digits(root / "data" / part, start=start, count=count)
    data = {"path": str(root / "data"), "val_ratio": 0.25}
    config = write_config(root / "config.yaml", root / "data", data=data, epochs=3)
    result = run_folds(load_config(config), 2)
    return Experiment(config, root / "runs" / "tiny" / "folds", result.model_dump(mode="json"))


def test_folds_give_metrics_their_spread_and_predictions_of_all_images(experiment: Experiment) -> None:
    result, folder = experiment.result, experiment.folder
    assert json.loads((folder / "summary.json").read_text()) == result
    assert [fold["images"] for fold in result["folds"]] == [24, 24]
    values = [fold["metrics"]["accuracy"] for fold in result["folds"]]
    spread = result["summary"]["accuracy"]
    assert spread["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert spread["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert {"test_accuracy", "test_macro_f1"} <= result["summary"].keys()

    predictions = out_of_fold(folder)
    head = predictions.heads[""]
    assert head.labels == ("0", "1", "7")
    assert len(set(predictions.images)) == 48
    assert not [path for path in predictions.images if path.parts[-3] == "test"]
    labels = np.array(head.labels)
    assert labels[head.truths.argmax(axis=1)].tolist() == [path.parent.name for path in predictions.images]
    hits = head.probabilities.argmax(axis=1) == head.truths.argmax(axis=1)
    assert [hits[predictions.folds == fold].mean() for fold in (1, 2)] == pytest.approx(values, abs=1e-6)
    assert ((predictions.errors > 0) == ~hits).all()


def test_run_of_a_fold_does_not_choose_its_epoch_on_the_fold(experiment: Experiment) -> None:
    for fold in experiment.result["folds"]:
        run = RunFolder.open(Path(fold["checkpoint"]))
        held_out = set(read_column(run.splits / "test.csv"))
        assert held_out == set(read_column(experiment.folder / f"fold-{fold['fold']}" / PREDICTIONS_FILE))
        assert not held_out & {path for part in ("train", "val") for path in read_column(run.splits / f"{part}.csv")}
        assert read_spec(Path(fold["checkpoint"])).lineage.metrics["test_accuracy"] == fold["metrics"]["accuracy"]


def read_column(path: Path, column: str = "image_path") -> list[str]:
    with path.open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def test_finished_folds_are_kept_when_the_command_runs_again(experiment: Experiment, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in experiment.folder.glob("fold-*/**/*") if path.is_file()}
    printed = command("train", "folds", experiment.config, "-k", 2, "--json")
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout) == experiment.result
    result = command("train", "folds", experiment.config, "-k", 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    mean = next(line.split() for line in result.stdout.splitlines() if line.startswith("mean"))
    assert mean[1] == f"{experiment.result['summary']['accuracy']['mean']:.4f}"
    assert result.stdout.endswith(f"{experiment.folder}\n")


def test_summary_is_missing_until_all_folds_are_finished(
    experiment: Experiment, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(experiment.folder, copy)
    for path in (copy / "fold-1" / "fold.json", copy / "summary.json", copy / PREDICTIONS_FILE):
        path.unlink()
    words = ["train", "folds", experiment.config, "-k", 2, "--folder", copy, "--only", 2]
    result = json.loads(command(*words, "--json").stdout)
    assert (result["missing"], result["summary"], result["predictions"]) == ([1], None, None)
    assert "of 2 folds, these are not finished: 1" in command(*words).stdout
    assert not (copy / "summary.json").exists()
    with pytest.raises(DataError) as caught:
        out_of_fold(copy)
    assert caught.value.code == "folds.no_predictions"


def test_images_that_changed_are_named_when_a_fold_was_trained_on_others(
    experiment: Experiment, command: Command, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(experiment.folder, copy)
    (copy / "fold-1" / "fold.json").unlink()
    summary = copy / "data" / "1" / "data.json"
    summary.write_text(summary.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    result = command("train", "folds", experiment.config, "-k", 2, "--folder", copy, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "folds.data_changed")


def test_folds_are_refused_when_the_experiment_has_other_settings(experiment: Experiment, command: Command) -> None:
    result = command("train", "folds", experiment.config, "-k", 3, "epochs=9", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "experiment.other_settings"
    assert "epochs: 3 then, 9 now, folds: 2 then, 3 now" in error["message"]
    assert (experiment.folder / "summary.json").is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-k", 13], "folds.class_too_small"),
        (["data.group=patient"], "data.missing_column"),
        (["--only", "2,6"], "folds.no_such_fold"),
        (["--only", "first"], "option.only"),
    ],
)
def test_folds_write_nothing_when_they_cannot_be_made(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path, command: Command, words: list[Any], code: str
) -> None:
    config = write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data"))
    result = command("train", "folds", config, *words, "--json")
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert code in {error["code"], *(problem["code"] for problem in error.get("problems", ()))}
    assert not (tmp_path / "runs").exists()


def test_folds_start_anew_with_other_settings_when_nothing_was_trained(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path
) -> None:
    class StopFoldsError(Exception):
        pass

    def stop(step: str) -> None:
        raise StopFoldsError

    config = load_config(write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data")))
    for count in (2, 3):
        with pytest.raises(StopFoldsError):
            run_folds(config, count, report=stop)
        assert len(list((tmp_path / "runs" / "tiny" / "folds" / "data").iterdir())) == count


@pytest.mark.drill
def test_folds_give_the_same_figures_in_another_order_and_after_a_kill(
    experiment: Experiment, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    run = RunFolder(folder / "fold-2" / "tiny" / "1")
    words = [experiment.config, "-k", 2, "--folder", folder, "--only", "2,1"]
    line = [sys.executable, "-P", "-m", "train.cli", "folds", *map(str, words)]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not run.last_state.is_file():  # after the first epoch
        assert process.poll() is None, "it ended before the kill"
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)
    process.kill()
    process.wait()
    while run.is_locked():  # the kernel stops the training when its parent is killed
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(0.05)
    assert not run.checkpoint("best").is_file()

    result = command("train", "folds", *words)
    assert result.exit_code == 0, result.output
    assert f"{run.path}: resuming after epoch" in (folder / "fold-2" / "log.txt").read_text()
    for name in RESULTS:
        assert (experiment.folder / name).read_text() == (folder / name).read_text(), name
