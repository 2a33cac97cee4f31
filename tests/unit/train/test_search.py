"""The section `search`, the values of a trial, and the study, with a formula in place of the training."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState
from sqlalchemy import make_url

from train.config.loading import Config, load_config
from train.config.search import SearchConfig
from train.databases import public_address
from train.experiments.child_run import ChildRun, OnEpoch
from train.search.result import SearchResult, search_result
from train.search.run import SearchOptions, search, write_result
from train.search.space import TrialSpace, load_search
from train.search.storage import study_address
from train.search.study import LostTrialError, SearchGoal, SearchStudy
from train.search.worker import work
from tritonkit.errors import CheckFailedError, ConfigError, DataError, ExternalError

LR = {"low": "1e-4", "high": 0.1, "log": True}
GOAL = SearchGoal("val_accuracy", "maximize")
EPOCHS = 3


def write(folder: Path, /, **search: Any) -> Path:
    """A configuration with a section `search`."""
    document = {"name": "x", "data": {"path": "x"}, "model": {"name": "x"}, "image": {"size": 1}, "epochs": EPOCHS}
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**document, "search": search}, sort_keys=False))
    return path


def open_study(folder: Path, space: TrialSpace, goal: SearchGoal = GOAL) -> SearchStudy:
    return SearchStudy(study_address(None, folder), "x", space, goal, folder)


def formula(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
    """Each epoch is better than the last, and small batches are better than large ones."""
    for epoch in range(1, EPOCHS + 1):
        on_epoch({"epoch": epoch, "val_accuracy": epoch / 10 - config.images_per_batch / 1000, "val_loss": 1 / epoch})
    return ChildRun(run=folder, checkpoint=folder / "best.safetensors", metrics={})


def run(folder: Path, path: Path, fit: Callable[..., ChildRun] = formula) -> SearchResult:
    study = open_study(folder, load_search(path))
    work(study, fit, lambda text: None)
    return search_result(study, "file")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"parameters": {"optimizer.lr": {"low": 1, "high": 0.1}}}, "low (1) is not below high (0.1)"),
        ({"parameters": {"optimizer.lr": {"low": 0, "high": 1, "log": True}}}, "log needs a low above 0"),
        ({"parameters": {"optimizer.lr": {"low": 0.1}}}, "expected a list of choices, or a range"),
        ({"parameters": {"optimizer.lr": {"choices": [1], "low": 0.1}}}, "leave low, high, step and log out"),
        ({"parameters": {"name": ["a", "b"]}}, "name is the same in all trials"),
        ({"parameters": {"model.name": ["a"], "model": [{"name": "b"}]}}, "model contains model.name"),
        ({"parameters": {"optimizer.lr": LR}, "sampler": "grid"}, "optimizer.lr has no steps"),
        ({"parameters": {"epochs": [1, 2]}, "sampler": "grid", "trials": 2}, "a grid has one trial for each"),
        ({"parameters": {"epochs": [1, 2]}, "sampler": "best"}, "expected 'tpe', 'random' or 'grid'"),
    ],
)
def test_search_section_is_refused_when_it_contradicts_itself(
    section: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search(write(tmp_path, **section))
    assert caught.value.code == "config.invalid"
    assert words in str(caught.value)
    assert "line " in str(caught.value)


def test_values_that_do_not_fit_their_keys_are_refused_together_with_their_lines(tmp_path: Path) -> None:
    parameters = {"batch_size": {"low": 0, "high": 64}, "model.nmae": ["a"], "optimizer.lr.x": [1], "augment.flip": [2]}
    with pytest.raises(ConfigError) as caught:
        load_search(write(tmp_path, parameters={**parameters, "epochs": [1, 2]}))
    assert caught.value.code == "search.values"
    text = str(caught.value)
    assert "0: batch_size: expected a number of at least 2" in text
    assert "did you mean model.name?" in text
    assert "augment.flip" in text
    assert "epochs" not in text
    assert text.count("line ") == len(caught.value.problems) == 4


def test_configuration_without_the_section_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"epochs": [1, 2]})
    path.write_text(path.read_text().partition("search:")[0])
    with pytest.raises(ConfigError, match="add one such as") as caught:
        load_search(path)
    assert caught.value.code == "search.missing_section"


def test_section_is_not_stored_in_the_configuration_of_a_run(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, parameters={"epochs": [1, 2]}))
    assert config.search is not None
    assert "search" not in config.model_dump()


def test_ranges_and_choices_become_values_of_their_keys(tmp_path: Path) -> None:
    focal = {"name": "focal", "gamma": 2}
    parameters = {
        "optimizer.lr": LR,
        "batch_size": {"low": 16, "high": 64, "step": 16},
        "loss": ["cross_entropy", focal],
    }
    space = load_search(write(tmp_path, parameters=parameters))
    chosen = {"optimizer.lr": 0.01, "batch_size": 32, "loss": '{"name": "focal", "gamma": 2}'}
    config = space.trial_config(chosen)
    assert (config.optimizer.lr, config.batch_size) == (0.01, 32)
    assert config.loss is not None
    assert (config.loss[0].name, config.loss[0].arguments) == ("focal", {"gamma": 2})
    assert space.search.parameters["batch_size"].grid == (16, 32, 48, 64)
    assert SearchConfig.model_validate({"parameters": {"ema": {"low": 0.1, "high": 0.4, "step": 0.1}}}).parameters[
        "ema"
    ].grid == pytest.approx((0.1, 0.2, 0.3, 0.4))


def test_grid_tries_each_combination_once_and_finds_the_best(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"batch_size": [8, 16, 32], "augment.flip": [0, 0.5]}, sampler="grid")
    result = run(tmp_path, path)
    assert len({str(trial.values) for trial in result.trials}) == len(result.trials) == 6
    assert {trial.state for trial in result.trials} <= {"complete", "pruned"}
    assert result.best is not None
    assert result.best.values["batch_size"] == 8
    assert result.best.value == pytest.approx(0.292)
    assert [trial.number for trial in run(tmp_path, path).trials] == list(range(6))  # nothing is left to do


def test_search_with_more_trials_continues_and_one_with_other_values_is_refused(tmp_path: Path) -> None:
    parameters = {"optimizer.lr": LR}
    first = run(tmp_path, write(tmp_path, parameters=parameters, trials=2))
    assert len(first.trials) == 2
    second = run(tmp_path, write(tmp_path, parameters=parameters, trials=4))
    assert second.trials[:2] == first.trials
    assert len(second.trials) == 4
    with pytest.raises(ConfigError, match=r"epochs.*--study NAME") as caught:
        run(tmp_path, write(tmp_path, parameters={"epochs": [1, 2]}, trials=4))
    assert caught.value.code == "search.other_settings"


def test_values_of_a_random_search_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def values(folder: str, seed: int) -> list[Mapping[str, Any]]:
        path = write(tmp_path, parameters={"optimizer.lr": LR}, sampler="random", trials=2, seed=seed)
        return [trial.values for trial in run(tmp_path / folder, path).trials]

    assert values("one", 0) == values("two", 0) != values("three", 1)
    assert len({str(each) for each in values("one", 0)}) == 2


def test_loss_is_minimized_over_the_epochs(tmp_path: Path) -> None:
    space = load_search(write(tmp_path, parameters={"optimizer.lr": LR}, trials=1))
    study = open_study(tmp_path, space, SearchGoal("val_loss", "minimize"))
    work(study, formula, lambda text: None)
    (trial,) = search_result(study, "file").trials
    assert trial.value == pytest.approx(1 / 3)


def test_trials_below_the_median_are_pruned_before_their_last_epoch(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"batch_size": [8, 9, 10, 11, 12, 64]}, sampler="grid")
    result = run(tmp_path, path)
    assert [trial.state for trial in result.trials] == ["complete"] * 5 + ["pruned"]
    assert list(result.trials[5].epochs) == [1]


def test_search_goes_on_after_a_trial_that_cannot_be_trained(tmp_path: Path) -> None:
    def diverges(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        if config.batch_size == 16:
            raise ConfigError("the loss is NaN", code="training.diverged")
        return formula(config, folder, on_epoch)

    result = run(tmp_path, write(tmp_path, parameters={"batch_size": [8, 16, 32]}, sampler="grid"), diverges)
    assert [trial.state for trial in result.trials] == ["complete", "failed", "complete"]
    assert result.trials[1].reason == "the loss is NaN"


def test_search_without_a_trial_that_can_be_trained_is_an_error(tmp_path: Path) -> None:
    def diverges(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        raise ConfigError("the loss is NaN", code="training.diverged")

    with pytest.raises(CheckFailedError, match=r"all 2 trials failed.*NaN") as caught:
        run(tmp_path, write(tmp_path, parameters={"batch_size": [8, 16]}, sampler="grid"), diverges)
    assert caught.value.code == "search.all_failed"


@pytest.mark.parametrize(
    "error",
    [
        DataError("no image", code="data.invalid"),
        ExternalError("the disk is full", code="machine.disk"),
        KeyboardInterrupt("stopped"),
    ],
)
def test_trial_waits_again_when_the_search_is_stopped(error: BaseException, tmp_path: Path) -> None:
    def stops(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        on_epoch({"epoch": 1, "val_accuracy": 0.9})
        raise error

    path = write(tmp_path, parameters={"batch_size": [8, 16]}, sampler="grid")
    with pytest.raises(type(error)):
        run(tmp_path, path, stops)
    assert {trial.state for trial in search_result(open_study(tmp_path, load_search(path)), "file").trials} == {
        "waiting"
    }
    result = run(tmp_path, path)
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    assert result.trials[0].epochs[1] == 0.9  # what was reported before the stop stays


def test_training_that_is_killed_continues_once(tmp_path: Path) -> None:
    calls: Counter[int | str] = Counter()

    def ends(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        calls[config.batch_size] += 1
        if config.batch_size == 16 or calls[config.batch_size] == 1:
            raise ExternalError("ended by SIGKILL", code="experiment.training_ended")
        return formula(config, folder, on_epoch)

    result = run(tmp_path, write(tmp_path, parameters={"batch_size": [8, 16]}, sampler="grid"), ends)
    assert [trial.state for trial in result.trials] == ["complete", "failed"]
    assert calls == {8: 2, 16: 2}


def test_metric_that_is_not_measured_is_refused_after_the_first_epoch(tmp_path: Path) -> None:
    space = load_search(write(tmp_path, parameters={"optimizer.lr": LR}, trials=3))
    study = open_study(tmp_path, space, SearchGoal("val_iou", "maximize"))
    with pytest.raises(ConfigError, match="choose one of val_accuracy, val_loss") as caught:
        work(study, formula, lambda text: None)
    assert caught.value.code == "search.metric"


def test_time_over_leaves_trials_for_the_next_call(tmp_path: Path) -> None:
    study = open_study(tmp_path, load_search(write(tmp_path, parameters={"optimizer.lr": LR}, trials=3, timeout_s=10)))
    work(study, formula, lambda text: None, clock=iter((0.0, 9.0, 11.0)).__next__)
    assert search_result(study, "file").unfinished == 2
    assert run(tmp_path, write(tmp_path, parameters={"optimizer.lr": LR}, trials=3)).unfinished == 0


def slow_formula(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as file:
        file.write("x")
    for epoch in range(1, EPOCHS + 1):
        time.sleep(0.03)
        on_epoch({"epoch": epoch, "val_accuracy": epoch / 10 - config.images_per_batch / 1000})
    return ChildRun(run=folder, checkpoint=folder / "best.safetensors", metrics={})


def work_in_process(folder: Path, path: Path) -> None:
    work(open_study(folder, load_search(path)), slow_formula, lambda text: None)


def test_workers_that_are_killed_again_and_again_lose_no_trial(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"batch_size": list(range(2, 14))}, sampler="grid", pruner="none")
    fork = multiprocessing.get_context("fork")

    def start_workers() -> list[Any]:
        workers = [fork.Process(target=work_in_process, args=(tmp_path, path)) for _ in range(2)]
        for worker in workers:
            worker.start()
        return workers

    def starts() -> int:
        return sum(len(file.read_text()) for file in tmp_path.glob("trial-*/starts"))

    deadline = time.monotonic() + 300
    for kill in range(4):
        workers, before = start_workers(), starts()
        while starts() < before + 2:
            assert time.monotonic() < deadline, "it takes too long"
            assert all(worker.is_alive() for worker in workers), "a worker has failed"
            time.sleep(0.01)
        time.sleep(0.03 * kill)
        for worker in workers:
            worker.kill()
            worker.join()
    for worker in start_workers():
        worker.join()
        assert worker.exitcode == 0
    result = search_result(open_study(tmp_path, load_search(path)), "file")
    assert [trial.state for trial in result.trials] == ["complete"] * 12
    assert [trial.values["batch_size"] for trial in result.trials] == list(range(2, 14))
    assert all(list(trial.epochs) == [1, 2, 3] for trial in result.trials)
    assert starts() - 12 <= 8  # only a kill starts a trial again


def test_trial_whose_metric_cannot_be_measured_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    def measures(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        if config.batch_size == 8:
            return formula(config, folder, on_epoch)
        on_epoch({"epoch": 1, "val_loss": 1.0})
        return ChildRun(run=folder, checkpoint=folder / "best.safetensors", metrics={})

    result = run(tmp_path, write(tmp_path, parameters={"batch_size": [8, 16]}, sampler="grid"), measures)
    assert [trial.state for trial in result.trials] == ["complete", "failed"]
    assert "val_accuracy could not be measured" in str(result.trials[1].reason)


def test_trial_of_a_worker_on_another_host_waits_again_when_its_heartbeat_stops(tmp_path: Path) -> None:
    space = load_search(write(tmp_path, parameters={"batch_size": [8]}, sampler="grid"))
    address = study_address(None, tmp_path)
    other = SearchStudy(address, "x", space, GOAL, tmp_path / "other host")
    assert other.take() is not None
    here = SearchStudy(address, "x", space, GOAL, tmp_path)
    assert here.take() is None
    here.dead_after_s = 0.0
    trial = here.take()
    assert trial is not None
    assert here.owns(0)
    assert not other.owns(0)
    with pytest.raises(LostTrialError):
        other.finish(trial, TrialState.COMPLETE, 0.5)


@pytest.mark.parametrize(
    ("storage", "code"),
    [
        ("postgresql://ada:secret@db/studies", "database.password"),
        ("postgresql://db/studies?sslpassword=secret", "database.password"),
        ("mysql://db/studies", "database.address"),
        ("postgresql://db", "database.address"),
        ("nothing", "database.address"),
        ("sqlite:///:memory:", "database.address"),
        ("sqlite:///study.db?timeout=abc", "database.address"),
        ("sqlite:///file:study?mode=memory&uri=true", "database.address"),
    ],
)
def test_address_of_a_database_is_refused_when_it_cannot_be_used(storage: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        study_address(storage, tmp_path)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_address_with_an_empty_password_is_taken(tmp_path: Path) -> None:
    address = study_address("postgresql://postgres:@/studies?host=/tmp/sockets", tmp_path)
    assert (address.username, address.database, address.query["host"]) == ("postgres", "studies", "/tmp/sockets")


def test_address_with_a_password_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONKIT_STUDY", "postgresql://ada:secret@db/studies")
    expected = make_url("postgresql+psycopg://ada:secret@db/studies")
    assert study_address(None, tmp_path) == expected
    monkeypatch.setenv("TRITONKIT_STUDY", "postgresql://ada@db/studies?password=secret")
    assert study_address(None, tmp_path) == expected
    monkeypatch.setenv("TRITONKIT_STUDY", "postgresql://ada:secret@db/studies?sslmode=require&sslpassword=secret")
    shown = "postgresql+psycopg://ada:***@db/studies?sslmode=require"
    assert public_address(study_address(None, tmp_path)) == shown
    assert study_address("sqlite:///other.db", tmp_path).database == "other.db"


def test_database_that_does_not_answer_is_an_external_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONKIT_STUDY", "postgresql://ada:secret@127.0.0.1:1/studies")
    space = load_search(write(tmp_path, parameters={"epochs": [1, 2]}))
    with pytest.raises(ExternalError, match=r"ada:\*\*\*@127\.0\.0\.1:1/studies") as caught:
        open_study(tmp_path, space)
    assert caught.value.code == "search.storage_failed"
    assert "secret" not in str(caught.value)


def test_address_of_the_database_can_be_corrected_when_it_did_not_answer(tmp_path: Path) -> None:
    parameters = {"batch_size": [8, 16]}
    path = write(tmp_path, parameters=parameters, sampler="grid", metric="val_accuracy", timeout_s=1e-9)
    options = SearchOptions(str(path), folder=tmp_path / "search")
    with pytest.raises(ExternalError) as caught:
        search(options._replace(storage="postgresql://127.0.0.1:1/x"))
    assert caught.value.code == "search.storage_failed"
    assert search(options).unfinished == 2


def test_search_starts_anew_with_other_settings_when_no_trial_has_a_value(tmp_path: Path) -> None:
    def fails(config: Config, folder: Path, on_epoch: OnEpoch) -> ChildRun:
        raise ConfigError("the GPU has too little memory", code="training.gpu_memory")

    path = write(tmp_path, parameters={"batch_size": [8, 16]}, sampler="grid")
    with pytest.raises(CheckFailedError):
        run(tmp_path, path, fails)
    result = run(tmp_path, write(tmp_path, parameters={"optimizer.lr": [0.1, 0.01, 0.001]}, sampler="grid"))
    assert [trial.values["optimizer.lr"] for trial in result.trials] == [0.1, 0.01, 0.001]


def test_lock_of_a_worker_on_another_host_is_not_trusted(tmp_path: Path) -> None:
    space = load_search(write(tmp_path, parameters={"batch_size": [8]}, sampler="grid"))
    here, other = open_study(tmp_path, space), open_study(tmp_path, space)
    other.worker = "elsewhere-1-abcdef"
    (tmp_path / ".workers" / other.worker).mkdir(parents=True)  # and no lock
    assert other.take() is not None
    assert here.take() is None


def test_best_configuration_is_what_the_user_wrote_with_the_best_values(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"batch_size": [8, 16], "optimizer.lr": [0.1]}, sampler="grid")
    written = write_result(load_search(path), run(tmp_path, path))
    assert written.config is not None
    best = yaml.safe_load(written.config.read_text())
    base = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "search"}
    assert best == {**base, "batch_size": 8, "optimizer": {"lr": 0.1}}
    assert load_config(written.config).batch_size == 8
