"""The last comparison: the best settings and the current ones, measured in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from benchmarks.tuning.prediction import best_level, value_of
from tritonkit.errors import TritonkitError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings

CANDIDATES = 2
"""Settings that are compared with the current ones."""
MIN_ROUNDS, MAX_ROUNDS = 2, 5
_MARGIN = 0.95
"""A level whose p99 is above this share of the bound is used only if no other level keeps the bound."""
_STUDENT_T_90 = {1: 3.078, 2: 1.886, 3: 1.638, 4: 1.533}
"""One-sided 90 % quantiles of Student's t, by degrees of freedom."""

Rounds = Sequence[Mapping[str, Figures]]
Measure = Callable[[ServingSettings, int], Figures]
"""Loads settings and measures them at a concurrency."""


class RoundStore(Protocol):
    """Where finished rounds are kept."""

    def rounds(self) -> list[dict[str, Figures]]: ...

    def save_rounds(self, rounds: list[dict[str, Figures]]) -> None: ...


def candidates(trials: Sequence[TuningTrial], current: TuningTrial, goal: TuningGoal) -> list[TuningTrial]:
    """Return the current settings, and the best measured ones that keep the bound."""
    others = [trial for trial in trials if trial.keeps_bound and trial.settings != current.settings]
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

    Settings that exceed the bound are measured again at the next lower level of the load. Settings that fail are left
    out of the round. has_time: whether another round fits.
    """
    names = [trial.settings.words() for trial in compared]
    levels = {trial.settings.words(): best_level(trial.levels, goal, _MARGIN) for trial in compared}
    concurrency = {
        trial.settings.words(): (levels[name][0] if levels[name][1] else _counted(trial)).concurrency
        for name, trial in zip(names, compared, strict=True)
    }
    rounds = [entry for entry in store.rounds() if set(entry) <= set(names)]
    for entry in rounds:
        concurrency |= {name: figures.concurrency for name, figures in entry.items()}
    while len(rounds) < MAX_ROUNDS and has_time():
        finished: dict[str, Figures] = {}
        for trial in compared[:: -1 if len(rounds) % 2 else 1]:
            name = trial.settings.words()
            try:
                figures = measure(trial.settings, concurrency[name])
                lower = [level for level in goal.concurrency if level < concurrency[name]]
                if figures.p99_ms > goal.p99_ms and lower and trial.keeps_bound:
                    concurrency[name] = lower[-1]
                    figures = measure(trial.settings, lower[-1])
                finished[name] = figures
            except TritonkitError:
                continue
        rounds.append(finished)
        store.save_rounds(rounds)


def summarize(rounds: Rounds, name: str) -> Figures | None:
    """Return the means of the rounds of settings at their last level, with the median p99; None without a round."""
    measured = [entry[name] for entry in rounds if name in entry]
    measured = [figures for figures in measured if figures.concurrency == measured[-1].concurrency]
    if not measured:
        return None
    return Figures(
        concurrency=measured[-1].concurrency,
        images_per_s=statistics.fmean(figures.images_per_s for figures in measured),
        p50_ms=statistics.fmean(figures.p50_ms for figures in measured),
        p99_ms=statistics.median(figures.p99_ms for figures in measured),
        errors=sum(figures.errors for figures in measured),
    )


def is_better(rounds: Rounds, name: str, current: str, goal: TuningGoal) -> bool:
    """Whether settings beat the current ones beyond noise: by a paired one-sided t-test of the rounds at 90 %."""
    gains = []
    for entry in rounds:
        if name in entry and current in entry:
            new, old = entry[name], entry[current]
            pair = (new.images_per_s, old.images_per_s) if goal.target == "throughput" else (old.p50_ms, new.p50_ms)
            gains.append(math.log(pair[0] / pair[1]))
    if len(gains) < MIN_ROUNDS:
        return False
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.fmean(gains) > _STUDENT_T_90[len(gains) - 1] * error


def _counted(trial: TuningTrial) -> Figures:
    if trial.best is None:
        raise ValueError(trial.settings.words())
    return trial.best
