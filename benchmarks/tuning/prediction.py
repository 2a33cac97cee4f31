"""Predicted figures of all settings in a search space, ranked, and corrected by what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from benchmarks.load.arrivals import PoissonArrivals
from benchmarks.tuning.curves import BatchCurve, CurveModel
from benchmarks.tuning.simulation import Configurations, Floats, simulate_closed, simulate_open
from benchmarks.tuning.space import Workers
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings

SIMULATED_ARRIVALS = 600
"""Requests of an open loop."""
_LARGEST_CORRECTION = 2.0
"""More is a disturbance of the measurement."""
_P99_MARGIN = 0.95
"""Predicted p99 must stay below this share of the bound: a setting at the bound itself fails half the time."""


def predict(
    settings: Sequence[ServingSettings], curves: CurveModel, goal: TuningGoal
) -> dict[ServingSettings, tuple[Figures, ...]]:
    """Simulate all settings at every level of the load."""
    configurations = _configurations(settings, curves, goal.batch)
    jitter = float(np.median([curve.jitter for curve in curves.curves.values()]))
    by_level = []
    for level in goal.levels:
        if goal.load == "concurrency":
            predictions = simulate_closed(configurations, int(level), jitter)
        else:
            arrivals_s = np.fromiter(PoissonArrivals(level).times(), float, SIMULATED_ARRIVALS)
            predictions = simulate_open(configurations, arrivals_s, jitter)
        by_level.append(
            [
                Figures(level=level, images_per_s=rate * goal.batch, p50_ms=p50 * 1e3, p99_ms=p99 * 1e3)
                for rate, p50, p99 in zip(
                    predictions.requests_per_s.tolist(),
                    predictions.p50_s.tolist(),
                    predictions.p99_s.tolist(),
                    strict=True,
                )
            ]
        )
    return dict(zip(settings, zip(*by_level, strict=True), strict=True))


def _configurations(settings: Sequence[ServingSettings], curves: CurveModel, batch: int) -> Configurations:
    """Describe settings to the simulation, whose sizes count requests of `batch` images."""
    cores = curves.cores
    served = [_BatchTimes.of(entry, curves.curve(workers_of(entry)), batch, cores) for entry in settings]
    largest = max(entry.max_requests for entry in served)
    most = max(len(entry.busy_shares) for entry in served)
    return Configurations(
        max_requests=np.array([entry.max_requests for entry in served]),
        delay_s=np.array([entry.delay_s for entry in served]),
        instances=np.array([len(entry.busy_shares) for entry in served]),
        batch_s=np.stack([np.pad(entry.batch_s, (0, largest - entry.max_requests)) for entry in served]),
        busy_shares=np.stack(
            [np.pad(entry.busy_shares, (0, most - len(entry.busy_shares)), "edge") for entry in served]
        ),
        overhead_s=np.array([entry.overhead_s for entry in served]),
        spacing_s=np.array([entry.spacing_s for entry in served]),
        preferred=tuple(
            tuple(sorted({size // batch for size in entry.preferred if size >= batch})) for entry in settings
        ),
    )


class _BatchTimes(NamedTuple):
    """One configuration of the simulation."""

    max_requests: int
    delay_s: float
    batch_s: Floats
    busy_shares: Floats
    overhead_s: float
    spacing_s: float

    @classmethod
    def of(cls, settings: ServingSettings, curve: BatchCurve, batch: int, cores: int) -> Self:
        delay_s = (settings.delay_us or 0) / 1e6
        requests = 1 if settings.delay_us is None else max(1, settings.max_batch // batch)
        if curve.image_s is None:
            table = curve.table(requests * batch)[::batch]
            return cls(requests, delay_s, table, curve.busy_shares(cores), curve.overhead_s, curve.spacing_s)
        if settings.max_batch > 1:  # each image by itself: the delay only holds it back
            table = np.array([0.0, batch * curve.image_s])
            return cls(1, 0.0, table, curve.busy_shares(cores), curve.overhead_s + delay_s, curve.spacing_s)
        whole = curve.model_copy(update={"image_s": None})
        contention = max(1.0, settings.instances * workers_of(settings).threads_on(cores) / cores)
        table = whole.table(1) * contention
        return cls(1, 0.0, table, np.ones(settings.instances), curve.overhead_s, curve.spacing_s)


def workers_of(settings: ServingSettings) -> Workers:
    """Return the instances and threads of settings."""
    return Workers(settings.instances, settings.threads)


class Ranking:
    """The settings of a search space by their predicted figures, corrected by measured ones.

    The correction is the median ratio of measured to predicted figures with the same instances and threads.
    """

    def __init__(
        self,
        predicted: Mapping[ServingSettings, Sequence[Figures]],
        trials: Iterable[TuningTrial],
        goal: TuningGoal,
    ) -> None:
        self._predicted, self._goal = predicted, goal
        self._ratios: dict[Workers, list[tuple[float, float]]] = {}
        self._measured = set()
        for trial in trials:
            if not trial.is_curve or trial.failed:
                self._measured.add(trial.settings)
            known = {figures.level: figures for figures in predicted.get(trial.settings, ())}
            for measured in trial.levels:
                if (expected := known.get(measured.level)) is not None and measured.is_sound:
                    self._ratios.setdefault(workers_of(trial.settings), []).append(
                        (measured.images_per_s / expected.images_per_s, measured.p99_ms / expected.p99_ms)
                    )

    def is_measured(self, settings: ServingSettings) -> bool:
        """Whether a trial measured these settings at levels that suit the bound, or failed."""
        return settings in self._measured

    def levels(self, settings: ServingSettings) -> list[Figures]:
        """Return the corrected figures of settings at every level."""
        ratios = self._ratios.get(workers_of(settings)) or [ratio for rows in self._ratios.values() for ratio in rows]
        rate, p99 = (
            float(np.clip(np.median(column), 1 / _LARGEST_CORRECTION, _LARGEST_CORRECTION))
            for column in zip(*ratios or [(1, 1)], strict=True)
        )
        return [
            figures.model_copy(
                update={
                    "images_per_s": figures.images_per_s * rate,
                    "p50_ms": figures.p50_ms / rate,
                    "p99_ms": figures.p99_ms * p99,
                }
            )
            for figures in self._predicted.get(settings, ())
        ]

    def best(self, settings: ServingSettings) -> Figures | None:
        """Return the corrected figures of the level that counts; None for settings outside the search space."""
        levels = self.levels(settings)
        return best_level(levels, self._goal, _P99_MARGIN)[0] if levels else None

    def at(self, settings: ServingSettings, measured: Figures | None) -> Figures | None:
        """Return the corrected figures at the level of measured ones."""
        return next((row for row in self.levels(settings) if measured and row.level == measured.level), None)

    def unmeasured(self) -> list[ServingSettings]:
        """Return the settings that were not measured, the most promising first.

        Those that keep the bound come first; of equal ones, those with the lower p99, then the simpler ones.
        """
        keys = {}
        for settings in self._predicted:
            if settings not in self._measured:
                figures, keeps_bound = best_level(self.levels(settings), self._goal, _P99_MARGIN)
                value = value_of(figures, self._goal) if keeps_bound else -figures.p99_ms
                simplicity = (len(settings.preferred), settings.delay_us or 0, settings.instances, -settings.max_batch)
                keys[settings] = (not keeps_bound, -float(f"{value:.3g}"), figures.p99_ms, simplicity)
        return sorted(keys, key=keys.__getitem__)


def best_level(levels: Iterable[Figures], goal: TuningGoal, margin: float = 1.0) -> tuple[Figures, bool]:
    """Return the level that counts, and whether it keeps `margin` of the bound.

    It is the best level within the bound; if there is none, the level with the lowest p99.
    """
    levels = list(levels)
    within = [figures for figures in levels if keeps(figures, goal, margin)]
    if not within:
        return min(levels, key=lambda figures: (not figures.is_sound, figures.p99_ms)), False
    return max(within, key=lambda figures: value_of(figures, goal)), True


def merge_trials(trials: Iterable[TuningTrial], goal: TuningGoal) -> list[TuningTrial]:
    """Return one trial for each settings, with the last measurement of each level."""
    merged: dict[ServingSettings, TuningTrial] = {}
    for trial in trials:
        earlier = merged.get(trial.settings, trial)
        levels = {figures.level: figures for figures in (*earlier.levels, *trial.levels)}
        best, keeps_bound = (None, False)
        if levels and not trial.failed:
            best, keeps_bound = best_level(levels.values(), goal)
        merged[trial.settings] = trial.model_copy(
            update={
                "levels": tuple(levels[level] for level in sorted(levels)),
                "best": best,
                "keeps_bound": keeps_bound,
                "is_curve": earlier.is_curve and trial.is_curve,
                "seconds": trial.seconds + (earlier.seconds if earlier is not trial else 0.0),
            }
        )
    return list(merged.values())


def keeps(figures: Figures, goal: TuningGoal, margin: float = 1.0) -> bool:
    """Whether figures are sound and keep `margin` of the bound."""
    return figures.is_sound and figures.p99_ms <= goal.p99_ms * margin


def value_of(figures: Figures, goal: TuningGoal) -> float:
    """Return what the search maximises: images/s, or the negative p50.

    In an open loop within the bound, images/s are the rate that was sent; p99 decides between equal rates.
    """
    if goal.target == "latency":
        return -figures.p50_ms
    if goal.load == "rate":
        return figures.level * goal.batch - 1e-6 * figures.p99_ms
    return figures.images_per_s
