"""The search: measured curves, the simulation's best settings measured for real, and a last comparison in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.load.arrivals import ClosedLoop
from benchmarks.tuning.confirmation import MIN_ROUNDS, candidates, compare_in_turns, first_levels
from benchmarks.tuning.curves import BatchCurve, CurveModel, workers_point
from benchmarks.tuning.job import TuningJob
from benchmarks.tuning.prediction import Ranking, best_level, keeps, merge_trials, predict, value_of, workers_of
from benchmarks.tuning.served import WARM_UP_SHARE, TrialLevel, TrialServer, load_of, loads_of
from benchmarks.tuning.space import SearchSpace, Workers
from tritonkit.errors import InputError, TritonkitError, UnreachableError
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.client import BatchTimes

CURVES_SHARE = 0.4
"""Share of the time for the current settings and the curves, at most."""
CONFIRM_SHARE = 0.25
"""Share of the time that is kept for the last comparison, at least."""
SAMPLER_EVERY = 4
"""Every fourth trial is Optuna's own proposal, in case the simulation is wrong about the model."""
MAX_LEVELS = 3
"""Levels of the load that one trial measures, at most."""
_RESTART_S = 60.0
_FIRST_RATE = 0.8
_SURPRISE = 0.75
"""A level whose predicted p99 is below this share of the bound should keep it."""
_MIN_LAG_S = 0.001
"""Responses that come later than the time of a batch and this after it were computed after it, image by image."""
NO_REQUEST_ENDED = "benchmark.no_request_ended"

OnShare = Callable[[str, float], None]
"""Called with what is being done, and the share of the time that is spent."""


@dataclass
class Budget:
    """The time of a search."""

    total_s: float
    spent_s: float
    """In earlier runs."""
    started: float = field(default_factory=time.monotonic)

    @property
    def used_s(self) -> float:
        """Seconds spent so far, in all runs."""
        return self.spent_s + time.monotonic() - self.started

    def allows(self, seconds: float, share: float = 1.0) -> bool:
        """Whether a step of `seconds` ends within a share of the time."""
        return self.used_s + seconds <= self.total_s * share

    @property
    def level_s(self) -> float:
        """Duration of one level: about 1 s in a search of a minute, 8 s in one of ten."""
        return min(8.0, max(0.2, self.total_s * 0.0135))


@dataclass(frozen=True)
class Search:
    """One search, with what it needs."""

    server: TrialServer
    job: TuningJob
    space: SearchSpace
    goal: TuningGoal
    current: ServingSettings
    cores: int
    budget: Budget
    report: OnShare = lambda text, share: None

    def run(self) -> None:
        """Measure until the time is used, or nothing is left to try. The job holds the results.

        Raises InferenceError when the server is lost, InputError when the current settings cannot be measured.
        """
        self._measure_current()
        self._measure_curves()
        model = CurveModel(self.job.curves(), self.cores)
        predicted = predict(list({**self.space.all(), self.current: None}), model, self.goal)
        self._complete_current(predicted)
        while self._has_time_for_trial() and self._try_next(predicted):
            pass
        self._confirm()

    def say(self, text: str) -> None:
        """Report the progress."""
        best = best_trial(self.job.trials(), self.goal)
        so_far = "" if best is None or best.best is None else f"; best: {figures_text(best.best, self.goal.load)}"
        self.report(f"{text}{so_far}", min(1.0, self.budget.used_s / self.budget.total_s))

    def _step_s(self, loads: int, levels: int) -> float:
        """Return the expected duration of loading settings and measuring levels, from the finished trials."""
        level_s = self._level_s() * (1 + WARM_UP_SHARE)
        loading_s = [trial.loading_s for trial in self.job.trials() if trial.levels and trial.loading_s]
        return loads * sum(loading_s) / max(1, len(loading_s)) + levels * level_s

    def _has_time_for_trial(self) -> bool:
        """Whether a trial fits before the last comparison."""
        comparison_s = max(self._comparison_s(compared=2, levels=2), CONFIRM_SHARE * self.budget.total_s)
        return self.budget.allows(self._step_s(1, MAX_LEVELS) + comparison_s)

    def _comparison_s(self, compared: int, levels: int) -> float:
        """Return the expected duration of the fewest rounds of the last comparison; levels: of the first round."""
        return self._round_s(compared, levels) + (MIN_ROUNDS - 1) * self._round_s(compared, 1)

    def _round_s(self, compared: int, levels: int) -> float:
        """Return the expected duration of a round, which begins with the settings that the last one ended with."""
        return self._step_s(compared - 1, compared * levels)

    def _measure_current(self) -> None:
        if self.job.current is not None:
            return
        self.say(f"current settings: {self.current.words()}")
        trial, curve = self._measure(self.current, self._curve_loads(workers_of(self.current)), None)
        if trial.failed:
            raise InputError(f"the current settings cannot be measured: {trial.failed}", code="benchmark.untunable")
        self.job.save_current(trial, curve)

    def _complete_current(self, predicted: Mapping[ServingSettings, Sequence[Figures]]) -> None:
        """Measure the current settings at the levels that suit the bound too."""
        first = self.job.current
        if first is None or not first.is_curve:
            return
        self.say(f"current settings: {self.current.words()}")
        ranking = Ranking(predicted, self.job.trials(), self.goal)
        trial, _ = self._measure(self.current, (), ranking.best(self.current))
        (merged,) = merge_trials([first, trial], self.goal)
        self.job.save_current(merged.model_copy(update={"predicted": ranking.at(self.current, merged.best)}), None)

    def _measure_curves(self) -> None:
        """Measure the curves of the instances and threads that differ most, then of those between."""
        measured = {curve.workers for curve in self.job.curves()}
        for workers in curve_order(self.space.workers, self.cores):
            if workers in measured:
                continue
            loads = self._curve_loads(workers)
            if len(measured) > 1 and not self.budget.allows(self._step_s(1, len(loads)), CURVES_SHARE):
                return
            largest = max(self.space.max_batch)
            chosen = self.space.choices() | {"workers": (str(workers),), "max_batch_size": (largest,)}
            self.job.enqueue({name: values[0] for name, values in chosen.items()})
            self._run_trial(Ranking({}, (), self.goal), loads)
            measured = {curve.workers for curve in self.job.curves()}

    def _curve_loads(self, workers: Workers) -> tuple[ClosedLoop, ...]:
        """Return loads where one instance is busy, where all are, and where batches are as large as they get."""
        most = int(self.goal.levels[-1]) if self.goal.load == "concurrency" else 2 * max(self.space.max_batch)
        most = max(most, 2 * workers.instances)
        return tuple(map(ClosedLoop, sorted({1, min(most, max(2 * workers.instances, 4)), most})))

    def _try_next(self, predicted: Mapping[ServingSettings, Sequence[Figures]]) -> bool:
        """Measure the most promising settings, or Optuna's proposal; False if all were measured."""
        trials = self.job.trials()
        ranking = Ranking(predicted, trials, self.goal)
        unmeasured = [settings for settings in ranking.unmeasured() if settings != self.current]
        if not unmeasured:
            return False
        if len(trials) % SAMPLER_EVERY:
            self.job.enqueue(self.space.all()[unmeasured[0]])
        if not self._run_trial(ranking):  # the proposal was measured before
            self.job.enqueue(self.space.all()[unmeasured[0]])
            self._run_trial(ranking)
        return True

    def _run_trial(self, ranking: Ranking, curve_loads: tuple[ClosedLoop, ...] = ()) -> bool:
        """Measure the next settings of the job; False if they were measured before.

        curve_loads: closed loops that give a curve, to be measured before the levels of the goal.
        """
        trial, chosen = self.job.ask()
        settings = self.space.settings(chosen)
        if ranking.is_measured(settings):
            self.job.skip(trial)
            return False
        self.say(settings.words())
        measured, curve = self._measure(settings, curve_loads, ranking.best(settings))
        measured = measured.model_copy(update={"predicted": ranking.at(settings, measured.best)})
        self.job.tell(trial, measured, None if measured.best is None else value_of(measured.best, self.goal), curve)
        return True

    def _confirm(self) -> None:
        """Compare the best settings with the current ones in turns, while time is left."""
        current = self.job.current
        if current is None:
            return
        compared = candidates(self.job.trials(), current, self.goal)
        levels = len(first_levels(compared, self.goal))
        while len(compared) > 2 and not self.budget.allows(self._comparison_s(len(compared), levels)):
            compared.pop()
        if len(compared) == 1:
            return

        def measure(settings: ServingSettings, level: float) -> Figures:
            self.say(f"in turns: {settings.words()}")
            with self._counted_time():
                try:
                    self.server.load(settings)
                    return self.server.measure(load_of(self.goal, level), self.goal.batch, self._level_s()).figures
                except UnreachableError:
                    self.server.wait_until_ready(_RESTART_S)
                    raise

        def has_time() -> bool:
            return self.budget.allows(self._round_s(len(compared), 1 if self.job.rounds() else levels))

        compare_in_turns(compared, self.goal, self.job, measure, has_time)

    def _measure(
        self, settings: ServingSettings, curve_loads: Sequence[ClosedLoop], expected: Figures | None
    ) -> tuple[TuningTrial, BatchCurve | None]:
        """Load and measure settings. A configuration that fails to load, or whose model dies, is a failed trial."""
        started, failed, loading_s = time.monotonic(), None, 0.0
        rows: list[TrialLevel] = []
        with self._counted_time():
            try:
                self.server.load(settings)
                loading_s = _since(started)
                for load in curve_loads:
                    rows.append(self.server.measure(load, self.goal.batch, self._level_s()))
                if not curve_loads or self.goal.load == "rate":
                    for level in self._climb(rows, expected):
                        rows.append(self.server.measure(load_of(self.goal, level), self.goal.batch, self._level_s()))
            except TritonkitError as error:
                if not (rows and error.code == NO_REQUEST_ENDED):  # too slow at this level, which is an answer
                    failed = one_line(error)
                if isinstance(error, UnreachableError):
                    self.server.wait_until_ready(_RESTART_S)
        counted = [row.figures for row in rows if row.level.load in loads_of(self.goal)]
        best, keeps_bound = best_level(counted, self.goal) if counted and not failed else (None, False)
        trial = TuningTrial(
            settings=settings,
            levels=tuple(counted),
            best=best,
            keeps_bound=keeps_bound,
            failed=failed,
            is_curve=bool(curve_loads) and len(counted) < len(self.goal.levels) and self.goal.load == "concurrency",
            loading_s=loading_s,
            seconds=_since(started),
        )
        closed = [row for row in rows if row.level.load in curve_loads]
        return trial, curve_of(workers_of(settings), closed, self.goal.batch, self.cores) if closed else None

    def _level_s(self) -> float:
        """A level should last for some responses even where each takes as long as the bound."""
        return min(2 * self.budget.level_s, max(self.budget.level_s, 5 * self.goal.p99_ms / 1e3))

    def _climb(self, rows: Sequence[TrialLevel], expected: Figures | None) -> Iterator[float]:
        """Yield the predicted best level, then its neighbours: higher ones while the bound holds, else lower ones."""
        levels = self.goal.levels
        start, before = len(levels) // 2, len(rows)
        if expected is not None:
            start = levels.index(expected.level)
        elif self.goal.load == "rate":  # below the throughput of the closed loops
            throughput = max(row.level.requests_per_s for row in rows)
            start = max((index for index, level in enumerate(levels) if level < _FIRST_RATE * throughput), default=0)
        yield levels[start]
        keeps_bound = keeps(rows[-1].figures, self.goal)
        if not keeps_bound and expected is not None and expected.p99_ms < _SURPRISE * self.goal.p99_ms:
            yield levels[start]  # perhaps it was disturbed
            keeps_bound = keeps(rows[-1].figures, self.goal)
        step = 1 if keeps_bound else -1
        for index in range(start + step, -1 if step < 0 else len(levels), step):
            last = rows[-1].figures
            # In a closed loop, twice the requests in flight are about twice the latency.
            grows = (
                self.goal.load == "concurrency" and last.p99_ms * levels[index] / last.level > self.goal.p99_ms * 1.1
            )
            if len(rows) - before >= MAX_LEVELS or (keeps_bound and grows):
                return
            yield levels[index]
            if keeps(rows[-1].figures, self.goal) != keeps_bound:
                return

    @contextmanager
    def _counted_time(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.job.add_spent(_since(started))


def curve_of(workers: Workers, rows: Sequence[TrialLevel], batch: int, cores: int) -> BatchCurve | None:
    """Make the curve of one configuration; rows: its levels, the first with one request in flight."""
    alone, loaded = rows[0], rows[1:] or rows
    times: dict[int, BatchTimes] = {}
    for row in rows if workers.instances == 1 else loaded:
        for size, counted in row.batches.items():
            earlier = times.get(size, BatchTimes())
            times[size] = BatchTimes(earlier.executions + counted.executions, earlier.total_ns + counted.total_ns)
    single = alone.batches.get(batch, BatchTimes())
    if not single.executions or not any(counted.executions for counted in times.values()):
        return None
    times.setdefault(batch, single)
    alone_s = single.total_ns / single.executions / 1e9
    latency = alone.level.latency
    busiest = max(rows, key=lambda row: row.figures.images_per_s)
    curve = BatchCurve.from_times(
        workers,
        times,
        overhead_s=max(0.0, latency.mean_ms / 1e3 - alone_s),
        spacing_s=busiest.level.client_cores / busiest.level.requests_per_s,
        jitter=min(0.3, max(0.0, math.log(latency.p90_ms / latency.p50_ms) / 1.2816)),
    )
    if workers.threads_on(cores) != 1 and _lag_s(loaded[0]) > alone_s + _lag_s(alone) + _MIN_LAG_S:
        by_image = curve.model_copy(update={"sizes": (batch,), "seconds": (alone_s,), "image_s": 1.0})
        return by_image.model_copy(update={"image_s": by_image.parallel(cores) / busiest.figures.images_per_s})
    ratio = 1.0 if workers.instances == 1 else min(1.0, alone_s / float(curve.table(batch)[batch]))
    return curve.model_copy(update={"alone": ratio})


def _lag_s(row: TrialLevel) -> float:
    """Return how long after the end of a request in the server's statistics its response came."""
    server_us = [counted.request_us for counted in row.level.counted.values() if counted.request_us is not None]
    return row.level.latency.mean_ms / 1e3 - sum(server_us) / 1e6 if server_us else 0.0


def curve_order(workers: Sequence[Workers], cores: int) -> list[Workers]:
    """Order instances and threads so that each next one is as far as possible from those before it."""
    points = {entry: workers_point(entry, cores) for entry in workers}
    ordered = [max(workers, key=lambda entry: (-entry.instances, entry.threads_on(cores)))]
    while len(ordered) < len(workers):
        rest = [entry for entry in workers if entry not in ordered]
        ordered.append(max(rest, key=lambda entry: min(math.dist(points[entry], points[done]) for done in ordered)))
    return ordered


def best_trial(trials: Sequence[TuningTrial], goal: TuningGoal) -> TuningTrial | None:
    """Return the best trial that keeps the bound; None without one."""
    kept = [trial for trial in merge_trials(trials, goal) if trial.keeps_bound and trial.best is not None]
    return max(kept, key=lambda trial: value_of(trial.best, goal), default=None)  # type: ignore[arg-type]


def figures_text(figures: Figures, load: str) -> str:
    """Figures as a short text."""
    return f"{figures.images_per_s:.1f} images/s, p99 {figures.p99_ms:.1f} ms at {load} {figures.level:g}"


def one_line(error: TritonkitError) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())


def _since(started: float) -> float:
    return time.monotonic() - started
