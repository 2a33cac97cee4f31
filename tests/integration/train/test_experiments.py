"""The parts that all experiments share: their folder, and runs in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.config.loading import load_config
from train.experiments.child_run import finished_run, fit_in_process
from train.experiments.folder import ExperimentFolder
from tritonkit.errors import ConfigError, DataError


class StopTrainingError(Exception):
    pass


def test_child_run_continues_after_a_stop_and_is_returned_once_finished(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data"), epochs=3))
    folder, seen = tmp_path / "one", list[float]()

    def stop_after_first(row: dict[str, float]) -> None:
        raise StopTrainingError

    with pytest.raises(StopTrainingError):
        fit_in_process(config, folder, stop_after_first)
    assert finished_run(config, folder) is None

    finished = fit_in_process(config, folder, lambda row: seen.append(row["epoch"]))
    assert seen == [1, 2, 3]
    assert finished.run == folder / "tiny" / "1"
    assert finished.metrics["val_accuracy"] > 0
    assert fit_in_process(config, folder) == finished


def test_child_run_raises_the_error_of_the_training(write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", tmp_path / "missing"))
    with pytest.raises(DataError, match=r"log\.txt") as caught:
        fit_in_process(config, tmp_path / "one")
    assert caught.value.code == "data.invalid"


def test_experiment_is_refused_when_it_was_started_with_other_settings(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", tmp_path / "data"))
    folder = ExperimentFolder.open(None, "folds", config, {"folds": 5})
    assert folder.path == tmp_path / "runs" / "tiny" / "folds"
    assert ExperimentFolder.open(None, "folds", config, {"folds": 5}) == folder

    changed = config.model_copy(update={"epochs": 9})
    with pytest.raises(ConfigError, match=r"epochs: 1 then, 9 now.*folds: 5 then, 4 now") as caught:
        ExperimentFolder.open(None, "folds", changed, {"folds": 4})
    assert caught.value.code == "experiment.other_settings"

    with pytest.raises(ConfigError) as caught:
        ExperimentFolder.open(tmp_path, "folds", config, {})
    assert caught.value.code == "experiment.folder_not_empty"
