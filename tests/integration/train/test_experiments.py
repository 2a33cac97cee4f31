"""The parts that all experiments share: their folder, and runs in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.train.conftest import CopyDigits, WriteConfig
from train.config.loading import load_config
from train.engine.run_folder import RunFolder
from train.experiments.child_run import finished_run, fit_in_process, reported_error
from train.experiments.folder import ExperimentFolder
from tritonkit.errors import ConfigError, DataError, ExternalError, TritonkitError


class StopTrainingError(Exception):
    pass


def test_child_run_continues_after_a_stop_and_is_returned_once_finished(
    copy_digits: CopyDigits, write_config: WriteConfig, tmp_path: Path
) -> None:
    trackers = [{"name": "tensorboard", "folder": str(tmp_path / "events")}]
    path = write_config(tmp_path / "config.yaml", copy_digits(tmp_path / "data"), epochs=3, trackers=trackers)
    config, folder, seen = load_config(path), tmp_path / "experiment" / "one", list[float]()

    def stop_after_first(row: dict[str, float]) -> None:
        raise StopTrainingError

    with pytest.raises(StopTrainingError):
        fit_in_process(config, folder, stop_after_first)
    assert finished_run(config, folder) is None

    config = load_config(path, ["workers=1"])  # as an error of the machine may advise
    finished = fit_in_process(config, folder, lambda row: seen.append(row["epoch"]))
    assert seen == [1, 2, 3]
    assert RunFolder(finished.run).load_config().workers == 1
    assert any((tmp_path / "events" / "experiment" / "one" / "tiny" / "1").iterdir())
    assert finished.run == folder / "tiny" / "1"
    assert finished.metrics["val_accuracy"] > 0
    assert fit_in_process(config, folder) == finished


def test_child_run_raises_the_error_of_the_training(write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", tmp_path / "missing"))
    with pytest.raises(DataError, match=r"log\.txt") as caught:
        fit_in_process(config, tmp_path / "one")
    assert caught.value.code == "data.invalid"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"type": "OSError", "code": "system.failed", "message": "x: No space left"}, ExternalError, "system.failed"),
        ({"type": "KeyboardInterrupt", "code": "x", "message": "x"}, ExternalError, "experiment.training_ended"),
        (
            {"type": "DataError", "code": "a.b", "message": "x", "problems": [{"code": "c.d", "message": "y"}]},
            DataError,
            "a.b",
        ),
    ],
)
def test_error_of_a_training_keeps_what_the_training_reported(
    error: dict[str, Any], kind: type[TritonkitError], code: str, tmp_path: Path
) -> None:
    reply = tmp_path / "result.json"
    reply.write_text(json.dumps({"error": error}))
    found = reported_error(3, reply)
    assert (type(found), found.code) == (kind, code)
    assert [vars(problem) for problem in found.problems] == error.get("problems", [])
    assert code == "experiment.training_ended" or str(found) == error["message"]


def test_experiment_that_has_trained_is_refused_when_it_was_started_with_other_settings(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", tmp_path / "data"))
    with ExperimentFolder.open(None, "folds", config, {"folds": 5}) as folder:
        assert folder.path == tmp_path / "runs" / "tiny" / "folds"
        with ExperimentFolder.open(None, "folds", config, {"folds": 5}) as same:
            assert same == folder
        changed = config.model_copy(update={"epochs": 9, "workers": 3})
        with pytest.raises(ConfigError, match="epochs: 1 then, 9 now"):  # another process uses the folder
            ExperimentFolder.open(None, "folds", changed, {"folds": 5})

    (folder.path / "data").mkdir()
    with ExperimentFolder.open(None, "folds", changed, {"folds": 5}):
        assert not (folder.path / "data").exists()
    with ExperimentFolder.open(None, "folds", changed.model_copy(update={"workers": 2}), {"folds": 5}):
        state = RunFolder(folder.path / "fold-1" / "tiny" / "1").last_state
        state.parent.mkdir(parents=True)
        state.touch()
    with pytest.raises(ConfigError, match=r"epochs: 9 then, 1 now.*folds: 5 then, 4 now") as caught:
        ExperimentFolder.open(None, "folds", config, {"folds": 4})
    assert caught.value.code == "experiment.other_settings"

    with pytest.raises(ConfigError) as caught:
        ExperimentFolder.open(tmp_path, "folds", config, {})
    assert caught.value.code == "experiment.folder_not_empty"
