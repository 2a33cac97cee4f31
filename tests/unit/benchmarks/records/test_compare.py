from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.records.bootstrap import ratio_interval, resample
from benchmarks.records.compare import RecordComparison, compare
from benchmarks.records.record import Level, LevelSlice, Limit, LimitPoint, Record, read_record, write_record
from tests.errors import error_codes, raises
from tests.unit.benchmarks.conftest import level
from tritonkit.errors import InputError

TRIES = 20
REAL = Path(__file__).parent / "real"
"""Records of one model, of the same model again, and of the model with a planted slowdown of 15 %."""


def samples(speed: float, seed: int, count: int = 30, drift: float = 0.0) -> tuple[LevelSlice, ...]:
    """Slices of a closed loop whose speed wanders by some percent, as that of a busy machine does.

    drift: how much slower the machine becomes meanwhile, as a share.
    """
    random, wander, slices = np.random.default_rng(seed), 0.0, []
    for number in range(count):
        wander = 0.6 * wander + random.normal(0, 0.03)
        rate = 160 * speed * np.exp(wander) * (1 - drift * number / count)
        p99 = 4e3 / rate * 1.5 * np.exp(abs(random.normal(0, 0.1)))
        slices.append(
            LevelSlice(seconds=0.5, requests=round(rate / 2), mean_ms=4e3 / rate, p50_ms=4e3 / rate, p99_ms=p99)
        )
    return tuple(slices)


def measured(concurrency: int, speed: float, seed: int, drift: float = 0.0, **changes: Any) -> Level:
    """A level whose figures are those of its samples."""
    slices = samples(speed, seed, drift=drift)
    rate = sum(each.requests for each in slices) / sum(each.seconds for each in slices)
    p50, p99 = (float(np.mean([getattr(each, name) for each in slices])) for name in ("p50_ms", "p99_ms"))
    return level(concurrency, rate, p50_ms=p50, p99_ms=p99, samples=slices, **changes)


def limit(speed: float, drift: float = 1.0) -> Limit:
    before, after = (
        tuple(LimitPoint(batch=size, images_per_s=rate * size, mean_ms=1e3 / rate) for size in (1, 2))
        for rate in (200 * speed, 200 * speed * drift)
    )
    return Limit(images_per_s=400 * speed, batch=2, threads=2, before=before, after=after)


@pytest.fixture
def old(record: Record) -> Record:
    return record.model_copy(update={"levels": (measured(1, 1, 1), measured(4, 1, 2)), "limit": limit(1)})


def again(record: Record, speed: float, seed: int, **changes: Any) -> Record:
    """The same measurement once more, with another model speed."""
    levels = tuple(measured(number, speed, seed + number) for number in (1, 4))
    return record.model_copy(update={"run_id": f"run-{seed}", "levels": levels, **changes})


def verdicts(comparison: RecordComparison) -> set[str]:
    return {row.verdict for row in comparison.rows}


@pytest.mark.parametrize(("speed", "verdict"), [(1, "no change"), (1 / 1.15, "regression"), (1.25, "better")])
def test_verdict_is_right_in_19_of_20_tries(old: Record, speed: float, verdict: str) -> None:
    pairs = [[again(old, each, 100 * seed + at) for at, each in enumerate((1, speed))] for seed in range(TRIES)]
    found = [
        compare(*(record.model_copy(update={"levels": record.levels[:1]}) for record in pair)).verdict for pair in pairs
    ]
    assert found.count(verdict) >= 19 / 20 * TRIES


def measured_in_turns(old: Record, speed: float, seed: int, in_turns: bool = True) -> list[Record]:
    """Records of one run on a machine that becomes slower, of a model and of one with another speed."""
    levels = [measured(4, each, 100 * seed + at, 0.5, in_turns=in_turns) for at, each in enumerate((1, speed))]
    return [old.model_copy(update={"run_id": "same", "levels": (level,)}) for level in levels]


@pytest.mark.parametrize(("speed", "verdict"), [(1, "no change"), (1 / 1.15, "regression")])
def test_a_machine_that_becomes_slower_hides_nothing_from_levels_in_turns(
    old: Record, speed: float, verdict: str
) -> None:
    found = [compare(*measured_in_turns(old, speed, seed)).verdict for seed in range(TRIES)]
    assert found.count(verdict) >= 19 / 20 * TRIES
    if verdict == "regression":
        apart = [compare(*measured_in_turns(old, speed, seed, in_turns=False)).verdict for seed in range(TRIES)]
        assert apart.count(verdict) < 19 / 20 * TRIES


def test_the_speed_of_the_machine_counts_only_where_levels_were_not_in_turns(old: Record) -> None:
    for in_turns in (True, False):
        one, other = measured_in_turns(old, 1 / 1.15, 1, in_turns)
        comparison = compare(one, other.model_copy(update={"limit": limit(1 / 1.15)}))
        assert (comparison.machine is None) is in_turns
        assert (comparison.verdict == "regression") is in_turns


def test_levels_in_turns_of_which_one_was_interrupted_are_compared_as_far_as_both_go(old: Record) -> None:
    one, other = measured_in_turns(old, 1 / 1.15, 1)
    (level,) = other.levels
    shorter = other.model_copy(update={"levels": (level.model_copy(update={"samples": level.samples[:-3]}),)})
    assert {compare(one, shorter).verdict, compare(shorter, one).verdict} == {"regression", "better"}


def test_a_change_within_the_tolerance_is_none(old: Record) -> None:
    assert compare(old, again(old, 1 / 1.15, 3), tolerance=0.3).verdict == "no change"


def test_a_slower_machine_is_no_regression(old: Record) -> None:
    slower = again(old, 1 / 1.15, 3, limit=limit(1 / 1.15))
    comparison = compare(old, slower)
    assert comparison.verdict == "no change"
    assert comparison.machine is not None
    assert comparison.machine.ratio == pytest.approx(1 / 1.15)
    assert all(row.corrected == pytest.approx(1, abs=0.05) for row in comparison.rows)
    assert compare(old, again(old, 1 / 1.15, 3, limit=limit(1.15))).verdict == "regression"


def test_a_pause_that_one_record_met_is_no_change_of_p99(old: Record) -> None:
    calm = measured(4, 1, 7)
    paused = tuple(
        each.model_copy(update={"p99_ms": each.p99_ms * (1.8 if 8 <= number < 23 else 1)})
        for number, each in enumerate(calm.samples)
        if each.p99_ms
    )
    disturbed = calm.model_copy(update={"p99_ms": calm.p99_ms * 1.8, "samples": paused})
    comparison = compare(old, again(old, 1, 3, levels=(disturbed,)))
    assert {row.metric: row.verdict for row in comparison.rows}["p99_ms"] == "no change"


def test_a_small_change_of_the_limit_is_no_doubt_about_a_regression(old: Record) -> None:
    for speed in (0.96, 1.04):
        assert compare(old, again(old, 1 / 1.15, 3, limit=limit(speed))).verdict == "regression"


def test_a_machine_whose_speed_is_uncertain_explains_more(old: Record) -> None:
    unsteady = again(old, 1 / 1.15, 3, limit=limit(1, drift=0.8))
    assert compare(old, unsteady).verdict == "no change"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"limit": None}, "no limit"),
        ({"limit": limit(1).model_copy(update={"threads": 1})}, "different threads"),
    ],
)
def test_drift_is_unknown_without_comparable_limits(old: Record, changes: dict[str, Any], reason: str) -> None:
    comparison = compare(old, again(old, 1 / 1.15, 3, **changes))
    assert (comparison.machine, comparison.verdict) == (None, "regression")
    assert any(reason in remark for remark in comparison.remarks)


def test_intervals_of_a_wandering_machine_are_wider() -> None:
    random, wandering = np.random.default_rng(0), samples(1, 5, count=60)
    shuffled = tuple(wandering[index] for index in random.permutation(len(wandering)))

    def width(slices: tuple[LevelSlice, ...]) -> float:
        deviations = resample(slices, slices, random)
        assert deviations is not None
        low, high = ratio_interval(deviations["images_per_s"], 1.0, 0.95)
        return high - low

    assert width(wandering) > 1.2 * width(shuffled)


def test_slices_without_an_answer_count_as_time(old: Record) -> None:
    pause = LevelSlice(seconds=0.5, requests=0, mean_ms=None, p50_ms=None, p99_ms=None)
    stalled = measured(4, 1, 7)
    slices = tuple(pause if number % 3 == 0 else each for number, each in enumerate(stalled.samples))
    stalled = stalled.model_copy(update={"images_per_s": stalled.images_per_s * 2 / 3, "samples": slices})
    comparison = compare(old, again(old, 1, 3, levels=(stalled,)))
    assert {row.metric: row.verdict for row in comparison.rows}["images_per_s"] == "regression"


def test_unlike_records_are_refused_with_all_differences(old: Record) -> None:
    load = old.load.model_copy(update={"batch": 2, "transport": "http"})
    machine = old.environment.model_copy(update={"cores": 64, "gpus": ("H200, 570.1",)})
    other = again(old, 1, 3, load=load, environment=machine)
    with raises(InputError, "record.unlike", "images a request: 1 and 2", "cores: 2 and 64", "none and H200") as error:
        compare(old, other)
    assert len(error.value.problems) == 4


def test_what_may_be_compared_is_listed(old: Record) -> None:
    subject = old.subject.model_copy(update={"version": "4", "settings": {"max_batch_size": 8}})
    machine = old.environment.model_copy(update={"triton": "2.52.0"})
    load = old.load.model_copy(update={"images_source": "validation images (repository/colours/4/golden.npz)"})
    assert compare(old, again(old, 1, 3, subject=subject, environment=machine, load=load)).changes == (
        "version: 3 and 4",
        "Triton: 2.51.0 and 2.52.0",
        "settings: max_batch_size: none and 8",
    )


def test_models_of_one_run_may_take_other_inputs(old: Record) -> None:
    subject = old.subject.model_copy(update={"model": "large", "input": "image UINT8 [N, 9, 9, 3]"})
    other = again(old, 1, 3, subject=subject)
    with raises(InputError, "record.unlike"):
        compare(old, other)
    assert compare(old, other.model_copy(update={"run_id": old.run_id})).verdict == "no change"


def test_levels_that_both_have_are_compared(old: Record) -> None:
    partial = again(old, 1, 3, levels=(measured(4, 1, 9), measured(8, 1, 9)), incomplete="stopped by Ctrl-C")
    comparison = compare(old, partial)
    assert {row.load for row in comparison.rows} == {"concurrency 4"}
    assert comparison.remarks == (
        "the new record is incomplete: stopped by Ctrl-C",
        "only in the old record: concurrency 1",
        "only in the new record: concurrency 8",
    )


def test_a_refused_level_is_not_compared(old: Record) -> None:
    late = measured(4, 0.5, 9, refused="the client was late")
    comparison = compare(old, again(old, 1, 3, levels=(measured(1, 1, 9), late)))
    assert {row.load for row in comparison.rows} == {"concurrency 1"}
    assert comparison.remarks == ("concurrency 4 is not compared: new is refused, the client was late",)
    with raises(InputError, "record.no_common_level", "the client was late"):
        compare(old, again(old, 1, 3, levels=(late,)))


def test_records_without_samples_are_shown_and_not_judged(old: Record, record: Record) -> None:
    comparison = compare(old, again(old, 1, 3, levels=record.levels))
    assert verdicts(comparison) == {"not judged"}
    assert any("8 samples" in remark for remark in comparison.remarks)


def test_command_exits_with_1_for_a_regression_and_prints_one_document(old: Record, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("old.json", "new.json", "slow.json")]
    for path, record in zip(paths, (old, again(old, 1, 3), again(old, 0.8, 3)), strict=True):
        write_record(path, record)
    same = CliRunner().invoke(app, ["compare", str(paths[0]), str(paths[1])])
    assert same.exit_code == 0, same.stderr
    assert "verdict: no change" in same.stdout
    slow = CliRunner().invoke(app, ["compare", str(paths[0]), str(paths[2]), "--json"])
    assert slow.exit_code == 1
    document = json.loads(slow.stdout)
    assert document["verdict"] == "regression"
    assert len(document["rows"]) == 6
    assert "images_per_s at concurrency 1" in slow.stderr
    assert CliRunner().invoke(app, ["compare", str(paths[0]), str(paths[2]), "--tolerance", "50%"]).exit_code == 0


@pytest.mark.parametrize("tolerance", ["5 percent", "120%", "-0.1", "5", "nan"])
def test_tolerance_is_a_share(tolerance: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json")
    result = CliRunner().invoke(app, ["compare", missing, missing, "--json", "--tolerance", tolerance])
    assert (result.exit_code, error_codes(result)) == (2, {"option.tolerance"})


@pytest.mark.parametrize(("other", "verdict"), [("again", "no change"), ("slowed", "regression")])
def test_real_records_are_judged_as_they_were_made(other: str, verdict: str) -> None:
    comparison = compare(read_record(REAL / "usual.json"), read_record(REAL / f"{other}.json"))
    assert comparison.verdict == verdict
    p50 = [row.ratio for row in comparison.rows if row.metric == "p50_ms"]
    assert p50 == pytest.approx([1.0, 1.0] if other == "again" else [1.15, 1.15], abs=0.02)
