"""Curves of batches, and the rank of settings by the simulation."""

from __future__ import annotations

import pytest

from benchmarks.tuning.curves import BatchCurve, CurveModel
from benchmarks.tuning.prediction import Ranking, best_level, predict
from benchmarks.tuning.search import curve_order
from benchmarks.tuning.space import SearchSpace, Workers, cpu_workers, powers_of_two
from tritonkit.repository.tuning.record import Figures, TuningGoal, TuningTrial
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.triton.client import BatchTimes

GOAL = TuningGoal(target="throughput", p99_ms=60, levels=(1, 2, 4, 8, 16), batch=1)


def curve(instances: int, threads: int, first_s: float, image_s: float, alone: float = 1.0) -> BatchCurve:
    sizes = (1, 4, 16)
    return BatchCurve(
        instances=instances,
        threads=threads,
        sizes=sizes,
        seconds=tuple(first_s + image_s * size for size in sizes),
        alone=alone,
        overhead_s=0.001,
    )


def test_a_curve_is_made_of_the_times_of_common_sizes_and_never_falls() -> None:
    times = {1: (10, 0.010), 4: (10, 0.030), 5: (1, 9.0), 8: (5, 0.029)}
    counted = {size: BatchTimes(count, int(count * second * 1e9)) for size, (count, second) in times.items()}
    made = BatchCurve.from_times(Workers(1, 2), counted)
    assert made.sizes == (1, 4, 8)
    assert made.seconds == pytest.approx((0.010, 0.030, 0.030))
    assert made.table(4) == pytest.approx([0, 0.010, 0.0167, 0.0233, 0.030], abs=1e-4)
    assert made.table(15)[15] == pytest.approx(0.030 + 7 * 0.020 / 7), "beyond the measured sizes: the mean slope"


def test_unmeasured_workers_are_estimated_by_their_share_of_the_cores() -> None:
    model = CurveModel([curve(1, 1, 0, 0.01), curve(1, 4, 0, 0.0025)], cores=4)
    two_threads = model.curve(Workers(1, 2))
    assert two_threads.table(1)[1] == pytest.approx(0.005, rel=0.05)
    two_instances = model.curve(Workers(2, 4))
    assert two_instances.table(1)[1] > 0.0045, "two busy instances share the cores"
    assert two_instances.alone == pytest.approx(0.5, abs=0.1)


def test_a_backend_that_runs_each_image_by_itself_counts_as_an_instance_a_thread() -> None:
    """Alone an image takes 12 ms on both threads; on one thread each, two take 20 ms."""
    by_image = BatchCurve(instances=1, threads=2, sizes=(1,), seconds=(0.012,), image_s=0.020)
    settings = [ServingSettings(max_batch=size, instances=1, threads=2) for size in (8, 1)]
    predicted = predict(settings, CurveModel([by_image], cores=2), GOAL)
    by_concurrency = {figures.level: figures for figures in predicted[settings[0]]}
    assert by_concurrency[1].images_per_s == pytest.approx(1 / 0.012, rel=0.01)
    assert by_concurrency[8].images_per_s == pytest.approx(2 / 0.020, rel=0.05)
    without_batches = {figures.level: figures for figures in predicted[settings[1]]}
    assert without_batches[8].images_per_s == pytest.approx(1 / 0.012, rel=0.05)


def test_the_best_settings_batch_where_batches_pay_and_keep_the_bound() -> None:
    space = SearchSpace((Workers(1, 2), Workers(2, 1)), max_batch=(1, 4, 16))
    model = CurveModel([curve(1, 2, 0.010, 0.001), curve(2, 1, 0.020, 0.002)], cores=2)
    predicted = predict(list(space.all()), model, GOAL)
    ranking = Ranking(predicted, (), GOAL)
    best = ranking.unmeasured()[0]
    figures = ranking.best(best)
    assert figures is not None
    assert best.max_batch == 16
    assert figures.p99_ms < GOAL.p99_ms
    worst = ranking.unmeasured()[-1]
    assert worst.max_batch == 1


def test_measured_figures_correct_the_predictions_of_the_same_workers() -> None:
    settings = ServingSettings(max_batch=1, instances=1, threads=2)
    other = settings.model_copy(update={"max_batch": 4})
    foreseen = Figures(level=8, images_per_s=100, p50_ms=40, p99_ms=50)
    measured = foreseen.model_copy(update={"images_per_s": 50, "p99_ms": 100})
    trial = TuningTrial(settings=settings, levels=(measured,), best=measured)
    ranking = Ranking({settings: (foreseen,), other: (foreseen,)}, [trial], GOAL)
    assert ranking.unmeasured() == [other]
    corrected = ranking.best(other)
    assert corrected is not None
    assert (corrected.images_per_s, corrected.p50_ms, corrected.p99_ms) == pytest.approx((50, 80, 100))


@pytest.mark.parametrize(("target", "expected"), [("throughput", 4), ("latency", 1)])
def test_the_level_that_counts_is_the_best_within_the_bound(target: str, expected: int) -> None:
    goal = TuningGoal.model_validate({**GOAL.model_dump(), "target": target})
    levels = [
        Figures(level=level, images_per_s=level * 10, p50_ms=level, p99_ms=level * 12, errors=int(level == 2))
        for level in (1, 2, 4, 8)
    ]
    figures, keeps_bound = best_level(levels, goal)
    assert (figures.level, keeps_bound) == (expected, True)
    assert best_level(levels[3:], goal) == (levels[3], False)


def test_workers_use_from_half_the_cores_to_twice_the_cores() -> None:
    assert set(cpu_workers(2, True)) == {Workers(1, 1), Workers(1, None), Workers(2, 1), Workers(2, 2)}
    assert all(4 <= workers.instances * workers.threads_on(8) <= 16 for workers in cpu_workers(8, True))
    assert cpu_workers(2, False) == (Workers(1, None), Workers(2, None))
    assert powers_of_two(12, 2) == (2, 4, 8, 12)
    assert curve_order(cpu_workers(2, True), 2)[:2] == [Workers(1, None), Workers(2, 1)]
