"""The last comparison: the best settings and the current ones, measured in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from benchmarks.tuning.prediction import best_level, keeps, merge_trials, value_of
from tritonkit.errors import TritonkitError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings

CANDIDATES = 2
"""Settings that are compared with the current ones."""
MIN_ROUNDS, MAX_ROUNDS = 3, 6
_MARGIN = 0.95
"""A level whose p99 is above this share of the bound is used only if no other level keeps the bound."""
_STUDENT_T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015}
"""One-sided quantiles of Student's t, by degrees of freedom."""

Rounds = Sequence[Mapping[str, Figures]]
Measure = Callable[[ServingSettings, float], Figures]
"""Loads settings and measures them at a level of the load."""


class RoundStore(Protocol):
    """Where finished rounds are kept."""

    def rounds(self) -> list[dict[str, Figures]]: ...

    def save_rounds(self, rounds: list[dict[str, Figures]]) -> None: ...


def candidates(trials: Sequence[TuningTrial], current: TuningTrial, goal: TuningGoal) -> list[TuningTrial]:
    """Return the current settings, and the best measured ones that keep the bound."""
    others = [trial for trial in merge_trials(trials, goal) if trial.keeps_bound and trial.settings != current.settings]
    others.sort(key=lambda trial: -value_of(_counted(trial), goal))
    return [current, *others[:CANDIDATES]]


def compare_in_turns(
    compared: Sequence[TuningTrial],
    goal: TuningGoal,
    store: RoundStore,
    measure: Measure,
    has_time: Callable[[], bool],
) -> None:
    """Measure settings in turns, in alternating order, and keep each round.

    In the first round, each is measured at the levels that were best for any of them, and goes on with its best one:
    one trial is too short to choose it. After `MIN_ROUNDS`, they end when one of the settings is clearly better than
    the first, the current ones. Settings that exceed the bound twice are measured at the next lower level of the load.
    Settings that fail are left out of the round. has_time: whether another round fits.
    """
    names = [trial.settings.words() for trial in compared]
    levels_of = dict.fromkeys(names, first_levels(compared, goal))
    rounds = [entry for entry in store.rounds() if set(entry) <= set(names)]
    if not set(names) <= {name for entry in rounds for name in entry}:
        rounds = []  # the others were not measured at the levels of the new settings
    for entry in rounds:
        levels_of |= {name: [figures.level] for name, figures in entry.items()}
    while len(rounds) < MAX_ROUNDS and has_time():
        finished: dict[str, Figures] = {}
        for trial in compared[:: 1 if len(rounds) % 2 else -1]:
            name = trial.settings.words()
            try:
                finished[name] = _measure_in_round(trial, levels_of[name], goal, measure)
            except TritonkitError:
                continue
            levels_of[name] = [finished[name].level]
        if not finished:
            return
        rounds.append(finished)
        store.save_rounds(rounds)
        if len(rounds) >= MIN_ROUNDS and _is_decided(rounds, names, goal):
            return


def _measure_in_round(trial: TuningTrial, levels: Sequence[float], goal: TuningGoal, measure: Measure) -> Figures:
    """Measure the settings of a trial at levels, and return the best. Raises the last error if all fail."""
    measured: list[Figures] = []
    for level in levels:
        try:
            measured.append(measure(trial.settings, level))
        except TritonkitError:
            if level == levels[-1] and not measured:
                raise
    figures = best_with_margin(measured, goal)
    if trial.keeps_bound and not keeps(figures, goal):
        figures = measure(trial.settings, figures.level)  # one disturbance decides nothing
    lower = [level for level in goal.levels if level < figures.level]
    if trial.keeps_bound and not keeps(figures, goal) and lower:
        figures = measure(trial.settings, lower[-1])
    return figures


def first_levels(compared: Sequence[TuningTrial], goal: TuningGoal) -> list[float]:
    """Return the levels of the first round: the best one of each trial."""
    return sorted({best_with_margin(trial.levels, goal).level for trial in compared})


def best_with_margin(levels: Sequence[Figures], goal: TuningGoal) -> Figures:
    """Return the best level that keeps the bound with a margin, else the best that keeps it, else the nearest to it."""
    figures, keeps_margin = best_level(levels, goal, _MARGIN)
    return figures if keeps_margin else best_level(levels, goal)[0]


def _is_decided(rounds: Rounds, names: Sequence[str], goal: TuningGoal) -> bool:
    """Whether more rounds are useless: the best settings keep the bound, and beat the current ones at 95 %."""
    means = {name: figures for name in names if (figures := summarize(rounds, name)) is not None}
    kept = {name: figures for name, figures in means.items() if keeps(figures, goal)}
    best = max(kept, key=lambda name: value_of(kept[name], goal), default=names[0])
    return best != names[0] and is_better(rounds, best, names[0], goal)


def summarize(rounds: Rounds, name: str) -> Figures | None:
    """Return the means of the rounds of settings at their last level, with the median p99; None without a round."""
    measured = [entry[name] for entry in rounds if name in entry]
    measured = [figures for figures in measured if figures.level == measured[-1].level]
    if not measured:
        return None
    return Figures(
        level=measured[-1].level,
        images_per_s=statistics.fmean(figures.images_per_s for figures in measured),
        p50_ms=statistics.fmean(figures.p50_ms for figures in measured),
        p99_ms=statistics.median(figures.p99_ms for figures in measured),
        errors=sum(figures.errors for figures in measured),
        refused=next((figures.refused for figures in measured if figures.refused), None),
    )


def is_better(rounds: Rounds, name: str, current: str, goal: TuningGoal) -> bool:
    """Whether settings beat the current ones beyond noise: by a paired one-sided t-test of the rounds, at 95 %."""
    gains = []
    for entry in rounds:
        if name in entry and current in entry:
            new, old = entry[name], entry[current]
            if goal.target == "latency":
                gains.append(math.log(old.p50_ms / new.p50_ms))
            elif goal.load == "rate":
                gains.append(math.log(new.level / old.level))
            else:
                gains.append(math.log(new.images_per_s / old.images_per_s))
    if len(gains) < 2:
        return False
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) > _STUDENT_T_95[len(gains) - 1] * error


def _counted(trial: TuningTrial) -> Figures:
    if trial.best is None:
        raise ValueError(trial.settings.words())
    return trial.best
