"""The result of a search: its trials, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from train.search.space import TrialSpace
from train.search.study import SearchStudy
from tritonkit.errors import CheckFailedError
from tritonkit.spec import Frozen

TrialStatus = Literal["complete", "pruned", "failed", "running", "waiting"]
_STATES: dict[TrialState, TrialStatus] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
"""By Optuna's state, ours; the states whose values can be compared come first."""
_MIN_FOR_IMPORTANCE = 4


class TrialResult(Frozen):
    """One trial."""

    number: int
    state: TrialStatus
    value: float | None
    """The best over the epochs; of a pruned trial the last; None without one."""
    values: Mapping[str, JsonValue]
    """What was tried, by dotted key."""
    epochs: Mapping[int, float]
    """The metric after each epoch."""
    reason: str | None = None
    """Why it failed."""
    run: Path | None = None
    checkpoint: Path | None = None


class SearchResult(Frozen):
    """All trials of a search."""

    study: str
    storage: str
    """The address of the database, without a password."""
    folder: Path
    metric: str
    direction: Literal["maximize", "minimize"]
    trials: tuple[TrialResult, ...]
    best: TrialResult | None
    importance: Mapping[str, float]
    """By dotted key, the share of the difference between good and other trials; empty for few trials."""
    config: Path | None = None
    """The best configuration; None before the first complete trial."""
    report: Path | None = None

    @property
    def unfinished(self) -> int:
        """The number of trials that have not ended."""
        return sum(trial.state in ("running", "waiting") for trial in self.trials)

    def ranked(self) -> list[TrialResult]:
        """Return the trials with the best first, and those without a value that can be compared last."""
        order, sign = list(_STATES.values()), -1 if self.direction == "maximize" else 1
        return sorted(self.trials, key=lambda each: (order.index(each.state), sign * (each.value or 0), each.number))


def search_result(study: SearchStudy, storage: str) -> SearchResult:
    """Read the result from the study. Raises CheckFailedError if all trials have failed."""
    trials = tuple(_trial_result(study, trial) for trial in study.trials())
    if all(trial.state == "failed" for trial in trials):
        raise CheckFailedError(
            f"all {len(trials)} trials failed; the first one: {trials[0].reason}",
            {"trials": [trial.model_dump(mode="json") for trial in trials]},
            code="search.all_failed",
        )
    result = SearchResult(
        study=study.name,
        storage=storage,
        folder=study.folder,
        metric=study.goal.metric,
        direction=study.goal.direction,
        trials=trials,
        best=None,
        importance=_importance(study),
    )
    best = result.ranked()[0]
    return result.model_copy(update={"best": best if best.state == "complete" else None})


def best_yaml(space: TrialSpace, result: SearchResult) -> str:
    """Return the configuration of the best trial, as the user wrote it but for the values of the trial.

    Empty before the first complete trial.
    """
    if result.best is None:
        return ""
    text = yaml.safe_dump(space.document(result.best.values), sort_keys=False, allow_unicode=True)
    return f"# trial {result.best.number} of the search: {result.metric} {result.best.value:.6g}\n{text}"


def _trial_result(study: SearchStudy, trial: FrozenTrial) -> TrialResult:
    attributes, params = trial.user_attrs, trial.params
    return TrialResult(
        number=trial.number,
        state=_STATES[trial.state],
        value=trial.value,
        values={key: study.space.value(key, params[key]) for key in study.space.search.parameters if key in params},
        epochs=trial.intermediate_values,
        reason=attributes.get("reason"),
        run=attributes.get("run"),
        checkpoint=attributes.get("checkpoint"),
    )


def _importance(study: SearchStudy) -> dict[str, float]:
    loaded = study.load()
    complete = loaded.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) < 2:
        return {}
    return dict(get_param_importances(loaded, evaluator=PedAnovaImportanceEvaluator()))
