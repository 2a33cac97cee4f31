"""The job of a search: an Optuna study in one file, so that a killed search continues where it was.

The file is a journal: a line for each change, so `kill -9` loses at most the last line. The trials of the study are the
measured settings; the measurements outside the search space are attributes of the study.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from benchmarks.tuning.curves import BatchCurve
from benchmarks.tuning.space import SearchSpace
from tritonkit.errors import InputError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.system.local_servers import state_folder

_STUDY = "tune"
_MAX_INTERRUPTED = 2
TWICE_INTERRUPTED = "`bench tune` ended twice while these settings were tried"


def job_file(served: str, search_key: dict[str, Any]) -> Path:
    """Return the file of a job: the same key and the same served model, `URL/MODEL`, find it again."""
    return state_folder() / "tuning" / _digest(served) / f"{_digest(json.dumps(search_key, sort_keys=True))}.journal"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TuningJob:
    """A search that survives its process. Use `open_job`."""

    def __init__(self, path: Path, space: SearchSpace, goal: TuningGoal) -> None:
        self.path, self._goal = path, goal
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
            study_name=_STUDY,
            direction="maximize",
            load_if_exists=True,
        )
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in space.choices().items()
        }
        self._retry_interrupted(space)

    def _retry_interrupted(self, space: SearchSpace) -> None:
        """Enqueue the settings that were being tried when the process ended; those that it happened to twice failed."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            interrupted = trial.user_attrs.get("interrupted", 0) + 1
            if interrupted < _MAX_INTERRUPTED:
                self._study.enqueue_trial(trial.params, user_attrs={"interrupted": interrupted})
            else:
                failed = TuningTrial(settings=space.settings(trial.params), failed=TWICE_INTERRUPTED)
                attributes = {"trial": failed.model_dump_json()}
                self._study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attributes))

    @property
    def spent_s(self) -> float:
        """The measuring time of all runs of the job, in seconds."""
        return float(self._study.user_attrs.get("spent_s", 0.0))

    def add_spent(self, seconds: float) -> None:
        """Count measuring time."""
        self._study.set_user_attr("spent_s", self.spent_s + seconds)

    def trials(self) -> list[TuningTrial]:
        """Return the measured settings, in their order; the current ones come first."""
        return [trial for trial, _ in self._measured()]

    def curves(self) -> list[BatchCurve]:
        """Return the measured curves."""
        return [curve for _, curve in self._measured() if curve is not None]

    def _measured(self) -> Iterator[tuple[TuningTrial, BatchCurve | None]]:
        frozen = self._study.get_trials(deepcopy=False)
        for attributes in (self._study.user_attrs, *(trial.user_attrs for trial in frozen)):
            if (text := attributes.get("trial")) is not None:
                curve = attributes.get("curve")
                yield TuningTrial.model_validate_json(text), BatchCurve.model_validate_json(curve) if curve else None

    def save_current(self, trial: TuningTrial, curve: BatchCurve | None) -> None:
        """Keep the measurement of the current settings."""
        if curve is not None:
            self._study.set_user_attr("curve", curve.model_dump_json())
        self._study.set_user_attr("trial", trial.model_dump_json())

    @property
    def current(self) -> TuningTrial | None:
        """The measurement of the current settings; None before it."""
        text = self._study.user_attrs.get("trial")
        return None if text is None else TuningTrial.model_validate_json(text)

    def enqueue(self, chosen: dict[str, Any]) -> None:
        """Let the next trial use these values."""
        self._study.enqueue_trial(chosen)

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """Start a trial: enqueued values, or those that the sampler proposes."""
        trial = self._study.ask(self._distributions)
        return trial, dict(trial.params)

    def tell(self, trial: Trial, measured: TuningTrial, value: float | None, curve: BatchCurve | None = None) -> None:
        """Finish a trial. value: what the search maximises; None if nothing was measured."""
        trial.set_user_attr("trial", measured.model_dump_json())
        if curve is not None:
            trial.set_user_attr("curve", curve.model_dump_json())
        if value is None or measured.best is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        excess = measured.best.p99_ms / self._goal.p99_ms - 1
        trial.set_constraint("p99", excess if measured.best.is_sound else max(excess, 1.0))
        self._study.tell(trial, value)

    def skip(self, trial: Trial) -> None:
        """Finish a trial whose settings were measured before."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def rounds(self) -> list[dict[str, Figures]]:
        """Return the finished rounds of the last comparison: figures by settings in words."""
        rounds = json.loads(self._study.user_attrs.get("rounds", "[]"))
        return [{name: Figures.model_validate(figures) for name, figures in entry.items()} for entry in rounds]

    def save_rounds(self, rounds: list[dict[str, Figures]]) -> None:
        """Keep the finished rounds of the last comparison."""
        plain = [{name: figures.model_dump() for name, figures in entry.items()} for entry in rounds]
        self._study.set_user_attr("rounds", json.dumps(plain))

    def delete(self) -> None:
        """Delete the finished job."""
        self.path.unlink(missing_ok=True)


@contextmanager
def open_job(path: Path, space: SearchSpace, goal: TuningGoal) -> Iterator[TuningJob]:
    """Open or continue a job, alone on its model. Raises InputError if another process tunes the model."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                "another `bench tune` runs for this model; wait for it, or stop it",
                code="benchmark.tuning_runs",
            ) from error
        # What a killed process left: Optuna's lock, and half a line.
        Path(f"{path}.lock").unlink(missing_ok=True)
        _drop_half_line(path)
        yield TuningJob(path, space, goal)


def _drop_half_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content:
        os.truncate(path, len(complete))
