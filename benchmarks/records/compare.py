"""Compares two records level by level, with a confidence interval of each ratio.

A change is a regression, or better, only if its whole interval lies beyond the tolerance. The confidence is that of all
intervals of a comparison together (Bonferroni), so a comparison of many levels is no more likely to report a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from benchmarks.records.bootstrap import MIN_SAMPLES, Deviations, Metric, ratio_interval, resample
from benchmarks.records.likeness import changes, check_alike
from benchmarks.records.perf_analyzer import CsvLevel, PerfAnalyzerResult, read_perf_analyzer
from benchmarks.records.record import MAX_DRIFT, Level, LimitPoint, Record, read_record
from tritonkit.errors import InputError
from tritonkit.spec import Frozen

METRICS: tuple[Metric, ...] = ("images_per_s", "p50_ms", "p99_ms")
ChangeVerdict = Literal["regression", "better", "no change", "not judged"]
"""not judged: there is no confidence interval."""
VERDICTS: tuple[ChangeVerdict, ...] = ("regression", "better", "no change", "not judged")
"""The verdict of a comparison is the first of these that a row has."""
BenchmarkResult = Record | PerfAnalyzerResult
ResultLevel = Level | CsvLevel


class ComparisonRow(Frozen):
    """One metric of one level."""

    load: str
    """Such as `concurrency 8`."""
    metric: Metric
    old: float
    new: float
    ratio: float
    """New over old."""
    low: float | None
    """The confidence interval of the ratio; None without samples."""
    high: float | None
    corrected: float | None
    """The ratio on a machine of unchanged speed; None where `machine` is None."""
    verdict: ChangeVerdict


class MachineSpeed(Frozen):
    """The speed of the machine in the new record over that in the old one, by the limit of the same artifact."""

    ratio: float
    low: float
    """Below `ratio` by one standard error where a limit changed while its load was measured; else `ratio`."""
    high: float


class RecordComparison(Frozen):
    """Two records compared."""

    old: str
    new: str
    tolerance: float
    confidence: float
    """Of all intervals together."""
    machine: MachineSpeed | None
    """None if unknown, and for levels that were measured in turns, which met the same machine."""
    verdict: ChangeVerdict
    """A regression if any row is one; else better if any row is."""
    rows: tuple[ComparisonRow, ...]
    changes: tuple[str, ...]
    """What differs between the records: model, settings and software."""
    remarks: tuple[str, ...]
    """What was not compared or not checked, and why."""

    @property
    def slower(self) -> str:
        """The regressions in words; empty if there are none."""
        slower = [row for row in self.rows if row.verdict == "regression"]
        return ", ".join(f"{row.metric} at {row.load} {row.ratio - 1:+.1%}" for row in slower)


def read_measured(path: Path) -> BenchmarkResult:
    """Read a record, or a CSV of perf_analyzer if the name ends with `.csv`. Raises InputError."""
    return read_perf_analyzer(path) if path.suffix.lower() == ".csv" else read_record(path)


def compare(
    old: BenchmarkResult, new: BenchmarkResult, tolerance: float = 0.05, confidence: float = 0.95
) -> RecordComparison:
    """Compare the levels that both records have.

    tolerance: a smaller relative change is none. confidence: of all intervals together, 0 to 1. Raises InputError for
    records that are not alike or have no sound level in common.
    """
    machine: MachineSpeed | None = None
    changed: tuple[str, ...] = ()
    remarks: list[str] = []
    if isinstance(old, Record) and isinstance(new, Record):
        check_alike(old, new)
        changed = changes(old, new)
    else:
        remarks.append("perf_analyzer's CSV names no model, inputs or machine: whether both are alike is not checked")
    pairs, skipped = _common_levels(old, new)
    remarks += skipped
    in_turns = [_are_in_turns(old, new, *pair) for pair in pairs]
    if isinstance(old, Record) and isinstance(new, Record) and not all(in_turns):
        speed = machine_speed(old, new)
        if isinstance(speed, str):
            remarks.append(f"the drift of the machine is unknown: {speed}")
        else:
            machine = speed
            if machine.high > machine.ratio:
                remarks.append("the limit changed while the records were measured, so only large changes can be found")
    random = np.random.default_rng(0)
    deviations = [
        resample(before.samples, after.samples, random, paired)
        for (before, after), paired in zip(pairs, in_turns, strict=True)
    ]
    intervals = len(METRICS) * sum(each is not None for each in deviations)
    if intervals < len(METRICS) * len(pairs):
        remarks.append(f"no confidence interval: a level needs {MIN_SAMPLES} samples, that is {MIN_SAMPLES / 2:g} s")
    each = 1 - (1 - confidence) / max(1, intervals)
    rows = tuple(
        _row(before, after, metric, by_chance, machine, tolerance, each)
        for (before, after), by_chance in zip(pairs, deviations, strict=True)
        for metric in METRICS
    )
    verdicts = {row.verdict for row in rows}
    return RecordComparison(
        old=old.name,
        new=new.name,
        tolerance=tolerance,
        confidence=confidence,
        machine=machine,
        verdict=next(verdict for verdict in VERDICTS if verdict in verdicts),
        rows=rows,
        changes=changed,
        remarks=tuple(remarks),
    )


def _are_in_turns(old: BenchmarkResult, new: BenchmarkResult, before: ResultLevel, after: ResultLevel) -> bool:
    """Whether levels of two records were measured in turns with each other."""
    if not (isinstance(old, Record) and isinstance(new, Record) and old.run_id == new.run_id):
        return False
    return isinstance(before, Level) and before.in_turns and isinstance(after, Level) and after.in_turns


def machine_speed(old: Record, new: Record) -> MachineSpeed | str:
    """Return how the speed of the machine changed between two records, or why that is unknown.

    It is the mean change of the same artifact, called in process at the same batch sizes and sessions.
    """
    if old.limit is None or new.limit is None:
        return "a record has no limit"
    if old.subject.artifact_sha256 != new.subject.artifact_sha256:
        return "the limits are those of different artifacts"
    times = [
        _rates(points) for limit in (old.limit, new.limit) for points in (limit.before, limit.after or limit.before)
    ]
    common = set.intersection(*(set(rates) for rates in times))
    # Parallel sessions have one thread each; the threads of the only session are known if it was the fastest.
    has_other_threads = old.limit.sessions == new.limit.sessions and old.limit.threads != new.limit.threads
    if has_other_threads or not common:
        return "the limits were measured with different threads or batch sizes"
    before, after, *later = (fmean(math.log(rates[key]) for key in common) for rates in times)
    ratio, drifts = math.exp(fmean(later) - fmean((before, after))), (before - after, later[0] - later[1])
    error = math.hypot(*drifts) / 2 if max(map(abs, drifts)) > math.log1p(MAX_DRIFT) else 0.0
    return MachineSpeed(ratio=ratio, low=ratio * math.exp(-error), high=ratio * math.exp(error))


def _rates(points: Sequence[LimitPoint]) -> dict[tuple[int, int], float]:
    return {(point.batch, point.sessions): point.images_per_s for point in points}


def _common_levels(
    old: BenchmarkResult, new: BenchmarkResult
) -> tuple[list[tuple[ResultLevel, ResultLevel]], list[str]]:
    """Return the levels to compare, and why others are not. Raises InputError if there are none."""
    sides: tuple[tuple[str, BenchmarkResult], ...] = (("old", old), ("new", new))
    levels, remarks = [], []
    for title, side in sides:
        levels.append({level.load: level for level in side.levels})
        if isinstance(side, Record) and side.incomplete:
            remarks.append(f"the {title} record is incomplete: {side.incomplete}")
    before, after = levels
    for title, own, others in (("old", before, after), ("new", after, before)):
        if only := [load for load in own if load not in others]:
            remarks.append(f"only in the {title} record: {', '.join(only)}")
    pairs = []
    for load in (load for load in before if load in after):
        reasons = [
            f"{load} is not compared: {title} {reason}"
            for title, level in (("old", before[load]), ("new", after[load]))
            if (reason := _why_not_compared(level))
        ]
        remarks += reasons
        if not reasons:
            pairs.append((before[load], after[load]))
    if not pairs:
        raise InputError(
            f"{old.name} and {new.name} have no level to compare: {'; '.join(remarks)}. The scenario Server measures "
            "other rates each time: use --rate",
            code="record.no_common_level",
        )
    return pairs, remarks


def _why_not_compared(level: ResultLevel) -> str:
    if level.refused:
        return f"is refused, {level.refused}"
    return "" if all(getattr(level, metric) for metric in METRICS) else "answered no request"


def _row(
    old: ResultLevel,
    new: ResultLevel,
    metric: Metric,
    by_chance: Deviations | None,
    machine: MachineSpeed | None,
    tolerance: float,
    confidence: float,
) -> ComparisonRow:
    values = getattr(old, metric), getattr(new, metric)
    ratio, sign = values[1] / values[0], 1 if metric == "images_per_s" else -1
    low = high = None
    verdict: ChangeVerdict = "not judged"
    if by_chance is not None:
        low, high = ratio_interval(by_chance[metric], ratio, confidence)
        verdict = _verdict(sorted((low**sign, high**sign)), machine or MachineSpeed(ratio=1, low=1, high=1), tolerance)
    return ComparisonRow(
        load=old.load,
        metric=metric,
        old=values[0],
        new=values[1],
        ratio=ratio,
        low=low,
        high=high,
        corrected=None if machine is None else ratio / machine.ratio**sign,
        verdict=verdict,
    )


def _verdict(speed: Sequence[float], machine: MachineSpeed, tolerance: float) -> ChangeVerdict:
    """Judge the interval of a relative speed: a change counts only if the machine's own change does not explain it.

    A change of the machine within the tolerance explains no change beyond it.
    """
    (low, high), (least, most) = speed, (1 / (1 + tolerance), 1 + tolerance)
    if high < least and (machine.low >= least or high / machine.low < least):
        return "regression"
    return "better" if low > most and (machine.high <= most or low / machine.high > most) else "no change"
