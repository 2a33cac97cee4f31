"""The study of a search: an Optuna study whose trials are all planned at its start.

Each trial is a row that waits, is taken by one worker, and ends as complete, pruned or failed. A trial whose worker has
died waits again, with its number, its values and its folder, so none is lost and none is counted twice. Several
workers, also on several hosts, share the rows.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import JsonValue
from sqlalchemy import URL

from train.engine.run_folder import RunFolder
from train.experiments.folder import LOCAL_KEYS, differences
from train.search.space import TrialSpace
from train.search.storage import ALL_STUDIES, exclusive, open_storage
from tritonkit.errors import ConfigError

_HEARTBEAT_S = 10.0
_DEAD_AFTER_S = 60.0
"""A trial whose heartbeat does not change for this long has lost its worker."""
_SETTINGS, _WORKER, _HEARTBEAT = "settings", "worker", "heartbeat"


class SearchGoal(NamedTuple):
    """What a search optimizes."""

    metric: str
    """A column of metrics.csv."""
    direction: Literal["maximize", "minimize"]


class LostTrialError(Exception):
    """Another worker has taken the trial, because this one did not answer for a while."""


class SearchStudy:
    """The study as one worker sees it.

    address: of the database. name: of the study in it. folder: of the search on this host. Raises ConfigError if the
    study was started with other settings, ExternalError if the database does not answer.
    """

    def __init__(self, address: URL, name: str, space: TrialSpace, goal: SearchGoal, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.goal, self.folder = space, goal, folder
        self.planned = space.search.planned_trials
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._storage, self.name = open_storage(address), name
        self.dead_after_s = _DEAD_AFTER_S
        self._heartbeats: dict[int, tuple[str, float]] = {}
        with exclusive(self._storage.engine, ALL_STUDIES):
            study = self._create_study()
            if self._has_other_settings(study):
                optuna.delete_study(study_name=name, storage=self._storage)
                study = self._create_study()
            study.set_user_attr(_SETTINGS, _settings(space, goal))
            points = space.grid() if space.search.sampler == "grid" else [{}] * self.planned
            for point in points[len(study.get_trials(deepcopy=False)) :]:
                study.enqueue_trial(dict(point))

    def _create_study(self) -> Study:
        study = optuna.create_study(
            storage=self._storage, study_name=self.name, direction=self.goal.direction, load_if_exists=True
        )
        self._study_id = self._storage.get_study_id_from_name(self.name)
        return study

    def load(self, number: int = 0) -> Study:
        """Load the study with the sampler and the pruner for a trial.

        Each trial has its own seed, so that its values do not depend on who draws them after which kill.
        """
        return optuna.load_study(
            storage=self._storage, study_name=self.name, sampler=self._sampler(number), pruner=self._pruner()
        )

    def trials(self) -> list[FrozenTrial]:
        """Return the planned trials by their number."""
        return self.load().get_trials(deepcopy=False)[: self.planned]

    def trial_folder(self, number: int) -> Path:
        """Return the folder in which a trial is trained."""
        return self.folder / f"trial-{number}"

    @contextmanager
    def membership(self) -> Iterator[None]:
        """Register this process as a worker while the block runs: others on this host see at once if it dies."""
        own = self._worker_folder(self.worker)
        own.mkdir(parents=True, exist_ok=True)
        try:
            with RunFolder(own).lock():
                yield
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def take(self) -> Trial | None:
        """Take the next trial that waits, with its values; None if none waits.

        A trial waits again if its worker has died: at once if the worker was on this host, else after a minute.
        """
        with self._lock():
            trials = self.trials()
            self._return_orphans(trials)
            number = next((trial.number for trial in self.trials() if trial.state == TrialState.WAITING), None)
            if number is None:
                return None
            self._storage.set_trial_user_attr(self._id(number), _WORKER, self.worker)
            # Optuna takes the first trial that waits; values that a trial has already stay.
            return self.load(number).ask(self.space.distributions())

    def put_back(self, number: int) -> None:
        """Let a trial of this worker wait for another."""
        with self._lock():
            if self.owns(number):
                self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def owns(self, number: int) -> bool:
        """Whether this worker runs the trial."""
        trial = self._storage.get_trial(self._id(number))
        return trial.state == TrialState.RUNNING and trial.user_attrs.get(_WORKER) == self.worker

    def reported_epochs(self, number: int) -> set[int]:
        """Return the epochs of a trial whose metric the study has."""
        return set(self._storage.get_trial(self._id(number)).intermediate_values)

    def has_values(self) -> bool:
        """Whether the metric of any trial was reported."""
        return any(trial.intermediate_values for trial in self.trials())

    def finish(self, trial: Trial, state: TrialState, value: float | None = None, **attributes: JsonValue) -> None:
        """End a trial of this worker. Raises LostTrialError if another worker has taken it."""
        with self._lock():
            if not self.owns(trial.number):
                raise LostTrialError
            for name, attribute in attributes.items():
                trial.set_user_attr(name, attribute)
            trial.study.tell(trial, value, state)

    @contextmanager
    def heartbeat(self, number: int) -> Iterator[None]:
        """Show that this worker lives while the block runs, for workers on other hosts."""
        ended = threading.Event()

        def beat() -> None:
            count = 0
            while not ended.wait(_HEARTBEAT_S):
                count += 1
                try:
                    self._storage.set_trial_user_attr(self._id(number), _HEARTBEAT, f"{self.worker} {count}")
                except Exception:  # noqa: BLE001, S112 - the worker meets the same fault, and reports it
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _return_orphans(self, trials: list[FrozenTrial]) -> None:
        """Let the trials of dead workers wait again."""
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._heartbeats = {trial.number: self._last_change(trial) for trial in running}
        for trial in running:
            worker = trial.user_attrs.get(_WORKER)
            if self._is_dead(worker) or time.monotonic() - self._heartbeats[trial.number][1] > self.dead_after_s:
                self._storage.set_trial_state_values(self._id(trial.number), TrialState.WAITING)

    def _is_dead(self, worker: str | None) -> bool:
        """Whether a worker of this host has died. Not each shared disk has the locks of another host."""
        if worker is None or worker == self.worker or worker.rsplit("-", 2)[0] != socket.gethostname():
            return False
        own = RunFolder(self._worker_folder(worker))
        return own.path.is_dir() and not own.is_locked()

    def _last_change(self, trial: FrozenTrial) -> tuple[str, float]:
        """Return the heartbeat of a trial, and since when this worker has seen that one."""
        beat = f"{trial.user_attrs.get(_WORKER)} {trial.user_attrs.get(_HEARTBEAT)}"
        seen = self._heartbeats.get(trial.number)
        return seen if seen is not None and seen[0] == beat else (beat, time.monotonic())

    def _worker_folder(self, worker: str) -> Path:
        return self.folder / ".workers" / worker

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with exclusive(self._storage.engine, self._study_id):
            yield

    def _has_other_settings(self, study: Study) -> bool:
        """Whether an old study has other settings. Raises ConfigError if a trial of it has a value already, or runs."""
        trials, stored = study.get_trials(deepcopy=False), study.user_attrs.get(_SETTINGS)
        if stored is None and not trials:
            return False
        changes = ", ".join(differences(stored, _settings(self.space, self.goal)))
        has_begun = any(trial.intermediate_values or trial.state == TrialState.RUNNING for trial in trials)
        if changes and (stored is None or has_begun):
            raise ConfigError(
                f"study {self.name}: the database has a study of this name with other settings ({changes}); use the "
                "same ones to continue it, or name another with --study NAME",
                code="search.other_settings",
            )
        return bool(changes)

    def _sampler(self, number: int) -> BaseSampler:
        seed = (self.space.search.seed * 1_000_003 + number) % 2**32
        if self.space.search.sampler == "tpe":
            return TPESampler(seed=seed, constant_liar=True)  # values unlike those that other workers are trying
        return RandomSampler(seed)

    def _pruner(self) -> BasePruner:
        match self.space.search.pruner:
            case "median":
                return MedianPruner()
            case "hyperband":
                return HyperbandPruner(max_resource=self.space.config.total_epochs)
        return NopPruner()


def search_options(space: TrialSpace, goal: SearchGoal) -> dict[str, JsonValue]:
    """Return what must stay the same in a search that is continued; `trials` and `timeout_s` may change."""
    options = space.search.model_dump(mode="json", exclude={"trials", "timeout_s"}, exclude_none=True)
    return {**options, **goal._asdict()}


def _settings(space: TrialSpace, goal: SearchGoal) -> dict[str, JsonValue]:
    config = space.config.model_dump(mode="json", exclude=set(LOCAL_KEYS))
    return {"kind": "search", "options": search_options(space, goal), "config": config}
