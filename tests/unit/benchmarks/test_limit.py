from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.environment import usable_cores
from benchmarks.limit import VISITS, batch_sizes, limit_of, measure_limit, open_reference, server_threads, why_exceeded
from benchmarks.records.record import LimitPoint, Record
from tests.errors import raises
from tritonkit.errors import ArtifactError
from tritonkit.spec import ModelSpec, TensorSpec
from tritonkit.triton.served_model import ServedModel


@pytest.mark.parametrize(
    ("config", "threads"),
    [
        ({}, 0),
        ({"parameters": {"intra_op_thread_count": {"string_value": "2"}}}, 2),
        (
            {
                "parameters": {"intra_op_thread_count": {"string_value": "2"}},
                "instance_group": [{"count": 2, "kind": "KIND_CPU"}, {"kind": "KIND_CPU"}],
            },
            6,
        ),
        ({"instance_group": [{"count": 4}], "parameters": {"empty": {}}}, 0),
    ],
)
def test_threads_are_those_of_all_instances(config: dict[str, Any], threads: int) -> None:
    assert server_threads(ServedModel.from_config("m", config, "m")) == threads


@pytest.mark.parametrize(("largest", "sizes"), [(1, (1,)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))])
def test_batch_sizes_end_with_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(largest) == sizes


def test_every_batch_size_is_measured(
    onnx_file: Path, spec: ModelSpec, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.limit.POINT_S", 0.05)
    monkeypatch.setattr("benchmarks.limit.SHORTEST_S", 0.05)
    texts: list[str] = []
    points = measure_limit(onnx_file, 1, spec, images, (1, 2, 8), on_point=lambda text, fraction: texts.append(text))
    sessions = [1] if usable_cores() == 1 else [1, usable_cores()]
    assert [(point.sessions, point.batch) for point in points] == [(n, size) for n in sessions for size in (1, 2, 8)]
    assert len(texts) == VISITS * len(points)
    for point in points[:3]:
        assert point.images_per_s == pytest.approx(point.batch / point.mean_ms * 1e3)


def test_the_limit_is_the_batch_that_is_best_on_average_over_both_halves() -> None:
    before = (LimitPoint(batch=1, images_per_s=100, mean_ms=10), LimitPoint(batch=2, images_per_s=90, mean_ms=22))
    after = (LimitPoint(batch=1, images_per_s=80, mean_ms=12), LimitPoint(batch=2, images_per_s=120, mean_ms=17))
    limit = limit_of(before, after, threads=2)
    assert (limit.images_per_s, limit.batch, limit.threads) == (105, 2, 2)
    assert limit.drift == pytest.approx(0.2)


def test_the_limit_of_parallel_sessions_has_one_thread_each() -> None:
    alone, parallel = (LimitPoint(batch=1, sessions=n, images_per_s=50.0 * n, mean_ms=20) for n in (1, 4))
    limit = limit_of((alone, parallel), (), threads=4)
    assert (limit.images_per_s, limit.sessions, limit.threads) == (200, 4, 1)


@pytest.mark.parametrize(
    ("after", "served", "threads", "words"),
    [
        (100, 99.9, 2, None),
        (120, 115, 2, "115.0 images/s at concurrency 1, 5% more: the machine changed its speed: in process 100.0"),
        (100, 130, 8, "8 threads, the limit on 2"),
        (100, 104, 2, "as much as two measurements of this length differ"),
        (120, 140, 2, "not steady: in process 100.0 before the load, 120.0 after"),
        (100, 140, 2, "unexplained"),
    ],
)
def test_a_served_figure_above_the_limit_is_explained(
    record: Record, after: float, served: float, threads: int, words: str | None
) -> None:
    halves = ((LimitPoint(batch=1, images_per_s=rate, mean_ms=10),) for rate in (100, after))
    levels = [record.levels[0].model_copy(update={"images_per_s": served})]
    reason = why_exceeded(limit_of(*halves, threads=2), levels, threads, has_cache=False)
    assert (reason is None) if words is None else (words in str(reason))


def test_another_model_is_refused_as_the_limit(onnx_file: Path, spec: ModelSpec) -> None:
    other_spec = spec.model_copy(update={"outputs": (TensorSpec(name="probabilities", dtype="FP32", shape=(4,)),)})
    with raises(ArtifactError, "benchmark.other_model", "probabilities FP32 [N, 3]", "[N, 4]", "--artifact"):
        open_reference(onnx_file, 1, other_spec)
