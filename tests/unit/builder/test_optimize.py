"""`builder optimize`: which formats are tried, which one is chosen, and the page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder.optimization.choice import best_load, choose, pareto_front, rate
from builder.optimization.measurement import BOUNDED, next_levels, served_load
from builder.optimization.page import render_page
from builder.optimization.request import OptimizeRequest
from tests.errors import raises
from tests.html_pages import Balanced
from tritonkit.errors import InputError
from tritonkit.options import options_from
from tritonkit.repository.optimization import Candidate, Goal, Optimization, RoundFigures, ServedLoad

ONNX_INT8 = "onnx int8"


def load(*images_per_s: float, concurrency: int = 32, p99_ms: float = 40) -> ServedLoad:
    """A load with these images per second in each round; its p50 follows from them."""
    rounds = [RoundFigures(images_per_s=rate, p50_ms=1000 * concurrency / rate, p99_ms=p99_ms) for rate in images_per_s]
    return served_load(concurrency, rounds)


def candidate(name: str, *loads: ServedLoad, relative: float | None = 1e-6, **fields: Any) -> Candidate:
    kind, precision = name.split()
    values = {"format": kind, "precision": precision, "verdict": "passed", "bytes": 1000}
    return Candidate.model_validate({**values, "relative": relative, "loads": loads, **fields})


def chosen(*candidates: Candidate, goal: Goal = "throughput", p99_bound_ms: float | None = None) -> str | None:
    choice = choose(candidates, goal, p99_bound_ms)
    return None if choice is None else choice.candidate.name


@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_fastest_is_chosen_when_the_difference_is_no_noise(goal: Goal) -> None:
    slow, fast = candidate("onnx fp32", load(100, 101, 99)), candidate(ONNX_INT8, load(120, 122, 118), relative=0.1)
    assert chosen(slow, fast, goal=goal) == ONNX_INT8


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ((98, 98, 98), "onnx fp32"),  # less than 3 %
        ((95, 95, 95), ONNX_INT8),  # small, but the same in every round
        ((95, 95, 105), "onnx fp32"),  # the order changed
        ((80, 80, 105), ONNX_INT8),  # the order changed once, but the difference is large
    ],
)
def test_smaller_error_is_chosen_when_the_difference_is_noise(rounds: tuple[float, ...], expected: str) -> None:
    fast, exact = candidate(ONNX_INT8, load(100, 100, 100), relative=0.1), candidate("onnx fp32", load(*rounds))
    assert chosen(fast, exact) == expected


def test_more_accurate_one_is_chosen_before_the_one_with_the_smaller_error() -> None:
    figures = load(100, 100, 100)
    exact = candidate("openvino fp32", figures, quality={"accuracy": -0.01}, quality_loss=0.01)
    accurate = candidate("openvino bf16", figures, relative=0.01, quality={"accuracy": 0.0})
    choice = choose([exact, accurate], "throughput")
    assert choice is not None
    assert choice.candidate is accurate
    assert "within noise of openvino fp32" in choice.reason


def test_failed_or_unserved_candidates_are_never_chosen() -> None:
    fast = load(900, 900, 900)
    failed = candidate(ONNX_INT8, fast, verdict="FAILED", excluded="relative error 2, limit 0.4")
    not_marked = candidate("openvino int8", fast, verdict="FAILED")
    unserved = candidate("torchscript fp32", fast, excluded="Triton did not load it")
    assert chosen(failed, not_marked, unserved, candidate("openvino bf16")) is None
    assert chosen(failed, not_marked, unserved, candidate("onnx fp32", load(10, 10, 10))) == "onnx fp32"


def test_p99_bound_decides_which_loads_count() -> None:
    loads = [load(50, 50, concurrency=1, p99_ms=20), load(200, 200, concurrency=8, p99_ms=60)]
    fast, steady = candidate(ONNX_INT8, *loads), candidate("onnx fp32", load(90, 90, concurrency=2, p99_ms=25))
    assert chosen(fast, steady) == ONNX_INT8
    assert chosen(fast, steady, p99_bound_ms=30) == "onnx fp32"
    assert chosen(fast, steady, p99_bound_ms=10) is None


def test_only_loads_of_every_round_count() -> None:
    assert best_load(candidate(ONNX_INT8, load(300, concurrency=32), load(100, 100, concurrency=4)), "throughput") == (
        load(100, 100, concurrency=4)
    )


def test_later_rounds_measure_the_best_load_under_the_bound_and_the_next_lower_one() -> None:
    assert next_levels("throughput", None, []) == (32,)
    assert next_levels("latency", 20, []) == (1,)
    assert next_levels("throughput", 20, []) == BOUNDED
    first = [load(100 + number, concurrency=number, p99_ms=3 * number) for number in BOUNDED]
    assert next_levels("throughput", 50, first) == (8, 16)
    assert next_levels("throughput", 4, first) == (1,)
    assert next_levels("throughput", 1, first) == (1,)
    second = [*first[:3], load(108, 108, concurrency=8), load(116, 116, concurrency=16), first[5]]
    assert next_levels("throughput", 50, second) == (8, 16)


def test_pareto_front_leaves_out_what_another_one_beats_in_speed_and_error() -> None:
    candidates = [
        candidate("onnx fp32", load(100)),
        candidate("openvino fp32", load(90), relative=2e-6),
        candidate("openvino bf16", load(300), relative=1e-2),
        candidate(ONNX_INT8, load(200), relative=1e-1),
    ]
    front = pareto_front(rate(candidates, "throughput"), "throughput")
    assert [one.candidate.name for one in front] == ["onnx fp32", "openvino bf16"]


@pytest.mark.parametrize(
    ("options", "has_gpu", "expected"),
    [
        ({}, False, ["onnx fp32", ONNX_INT8, "openvino fp32", "openvino bf16", "openvino int8", "torchscript fp32"]),
        ({"formats": ["onnx:bf16,openvino"]}, False, ["onnx bf16", "openvino fp32", "openvino bf16", "openvino int8"]),
        ({"formats": ["onnx"]}, True, ["onnx fp32", "onnx fp16", ONNX_INT8]),
        ({"formats": ["torchscript", ONNX_INT8.replace(" ", ":")]}, False, [ONNX_INT8, "torchscript fp32"]),
    ],
)
def test_formats_that_are_tried(options: dict[str, Any], has_gpu: bool, expected: list[str]) -> None:
    request = options_from(OptimizeRequest, {"source": "x", "target": "latency", **options})
    assert [str(target) for target in request.targets(has_gpu)] == expected


def test_plans_are_tried_with_a_gpu_in_a_container() -> None:
    request = OptimizeRequest(source="x", target="latency", runtime="docker")
    names = {str(target) for target in request.targets(has_gpu=True)}
    assert {"trt fp32", "trt fp16", "onnx fp16"} <= names
    assert not {"onnx bf16", "rtx fp16"} & names
    assert not any(name.startswith("trt") for name in map(str, request.targets(has_gpu=False)))


def test_candidate_is_exported_with_the_options_that_its_format_uses(tmp_path: Path) -> None:
    request = OptimizeRequest(source="x", target="latency", name="n", max_batch=4, calibration=tmp_path, data=tmp_path)
    exports = {str(target): request.export_request(target) for target in request.targets(has_gpu=False)}
    assert {name for name, export in exports.items() if export.calibration} == {ONNX_INT8, "openvino int8"}
    assert all(export.strict and export.max_batch == 4 and export.data == tmp_path for export in exports.values())
    assert [str(export.target) for export in exports.values()] == list(exports)


def test_unknown_formats_are_refused_all_at_once() -> None:
    with raises(InputError, "option.unknown_format", "--formats") as caught:
        options_from(OptimizeRequest, {"source": "x", "target": "latency", "formats": ["tflite,rtx,onnx:int4"]})
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"option.unknown_format", "option.format_not_served", "option.precision"}


@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_page_draws_what_can_be_chosen_and_lists_everything(goal: Goal) -> None:
    candidates = (
        candidate("onnx fp32", load(100, 101), relative=None),
        candidate(ONNX_INT8, load(300, 301), relative=0.1, quality={"accuracy": -0.001}),
        candidate("openvino int8", verdict="FAILED", excluded="relative error <2>, limit 0.4"),
    )
    record = Optimization(
        model="<pets>",
        target=goal,
        candidates=candidates,
        chosen=ONNX_INT8,
        reason="it is the fastest",
        window_s=1,
        measured=datetime.now(UTC),
    )
    page = render_page(record)
    assert Balanced(page)
    assert page.count("<circle") == 2 * 2
    assert "2.99 x" in page
    assert "relative error &lt;2&gt;" in page
    assert "-0.0010" in page
    assert "&lt;pets&gt;" in page
    nothing = record.model_copy(update={"candidates": candidates[2:], "chosen": None, "reason": "none passed"})
    assert "<svg" not in render_page(nothing)
