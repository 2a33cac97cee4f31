"""A worker: it takes trials of a study and trains them, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from train.config.loading import Config
from train.experiments.child_run import ChildRun, OnEpoch
from train.search.space import values_text
from train.search.study import LostTrialError, SearchStudy
from tritonkit.errors import ConfigError, DataError, ExternalError, TritonkitError, first_line
from tritonkit.runtimes.formats import ProgressCallback

TrialTraining = Callable[[Config, Path, OnEpoch], ChildRun]
"""Trains a configuration below a folder, or continues there; calls back with each row of metrics.csv."""

_POLL_S = 1.0
_MAX_LOCKED = 30
"""Attempts while the training of a killed worker has not yet ended."""
_LOCKED_S = 2.0
_ENDED, _LOCKED, _METRIC = "experiment.training_ended", "run.locked", "search.metric"
_CAUSED_BY_VALUES = (_ENDED, "internal.error", "machine.memory", "machine.shared_memory", "machine.worker_killed")
"""Failures that the values of a trial may cause, such as a large batch; others stop the search."""


def work(
    study: SearchStudy,
    fit: TrialTraining,
    report: ProgressCallback,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run trials until all have ended, or until the time of the search is over. clock: in seconds.

    A trial whose values cannot be trained fails, and the next one starts. Raises DataError and ExternalError for what
    would stop all trials, and ConfigError if the metric of the search does not exist; the trial then waits for the next
    call.
    """
    timeout_s, started = study.space.search.timeout_s, clock()
    with study.membership():
        while timeout_s is None or clock() - started < timeout_s:
            trial = study.take()
            if trial is not None:
                _run(study, trial, fit, report)
            elif any(not other.state.is_finished() for other in study.trials()):
                time.sleep(_POLL_S)  # other workers run them; one of these may die
            else:
                return


def _run(study: SearchStudy, trial: Trial, fit: TrialTraining, report: ProgressCallback) -> None:
    report(f"trial {trial.number}: {values_text(trial.params)}")
    try:
        with study.heartbeat(trial.number):
            outcome = _outcome(study, trial, fit)
        study.finish(trial, outcome.state, outcome.value, **outcome.attributes)
    except LostTrialError:
        outcome = _Outcome("taken by another worker, because this one did not answer for a while", TrialState.FAIL)
    except BaseException:
        study.put_back(trial.number)
        raise
    ended = sum(other.state.is_finished() for other in study.trials())
    report(f"trial {trial.number}: {outcome.words} ({ended} of {study.planned} trials have ended)")


@dataclass(frozen=True)
class _Outcome:
    """How a trial ended."""

    words: str
    state: TrialState
    value: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def _outcome(study: SearchStudy, trial: Trial, fit: TrialTraining) -> _Outcome:
    """Train a trial to its end. Raises what would stop the other trials too."""
    try:
        config = study.space.trial_config(trial.params)
        epochs = _Epochs(study, trial, config.total_epochs, study.reported_epochs(trial.number))
        try:
            finished = _fit(config, study.trial_folder(trial.number), epochs, fit)
        except optuna.TrialPruned:
            words = f"{study.goal.metric} {epochs.best:.4f}, pruned after epoch {max(epochs.values)}"
            return _Outcome(words, TrialState.PRUNED)
    except TritonkitError as error:
        is_external = isinstance(error, ExternalError) and error.code not in _CAUSED_BY_VALUES
        if is_external or isinstance(error, DataError) or error.code == _METRIC:
            raise
        attributes = {"reason": str(error), "code": error.code}
        return _Outcome(f"failed: {first_line(error)}", TrialState.FAIL, None, attributes)
    if not epochs.values:
        reason = f"{study.goal.metric} could not be measured after any epoch"
        return _Outcome(f"failed: {reason}", TrialState.FAIL, None, {"reason": reason, "code": _METRIC})
    attributes = {"run": str(finished.run), "checkpoint": str(finished.checkpoint)}
    return _Outcome(f"{study.goal.metric} {epochs.best:.4f}", TrialState.COMPLETE, epochs.best, attributes)


def _fit(config: Config, folder: Path, epochs: _Epochs, fit: TrialTraining) -> ChildRun:
    """Train a trial; continue once if its process ends without a reason, and wait for one that is about to end."""
    ended = locked = 0
    while True:
        try:
            return fit(config, folder, epochs)
        except TritonkitError as error:
            ended += error.code == _ENDED
            locked += error.code == _LOCKED
            if error.code not in (_ENDED, _LOCKED) or ended > 1 or locked > _MAX_LOCKED:
                raise
            time.sleep(_LOCKED_S)


@dataclass
class _Epochs:
    """Reports the metric after each epoch to the study, and stops the training of a trial that is pruned or lost."""

    study: SearchStudy
    trial: Trial
    last: int
    """The last epoch, after which there is nothing to save."""
    reported: Container[int]
    """The epochs that the study has already."""
    values: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The best value so far."""
        return (max if self.study.goal.direction == "maximize" else min)(self.values.values())

    def __call__(self, row: dict[str, float]) -> None:
        epoch, value = int(row["epoch"]), row.get(self.study.goal.metric)
        if not self.study.owns(self.trial.number):
            raise LostTrialError
        if value is None and (self.values or self.study.has_values()):
            return  # it cannot be measured after this epoch
        if value is None:
            metric = self.study.goal.metric
            measured = ", ".join(name for name in row if name.startswith(("val_", "train_")))
            raise ConfigError(
                f"search.metric: {metric} is not measured after epoch {epoch}; choose one of {measured}",
                code=_METRIC,
            )
        if epoch not in self.values and epoch not in self.reported:
            self.trial.report(value, epoch)
        self.values[epoch] = value
        if epoch < self.last and self.trial.should_prune():
            raise optuna.TrialPruned
