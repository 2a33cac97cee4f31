from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.against import parse_against, parse_model
from benchmarks.load.arrivals import ClosedLoop
from benchmarks.records.record import Record, write_record
from benchmarks.scenarios import Scenario
from benchmarks.target import BenchmarkPlan
from tests.errors import raises
from tritonkit.errors import InputError

PLAN = BenchmarkPlan("cats", "127.0.0.1:8001", Scenario("closed", (ClosedLoop(1),)), artifact=Path("model.onnx"))


@pytest.mark.parametrize(
    ("text", "url", "model", "version"),
    [
        ("dogs", PLAN.url, "dogs", ""),
        ("dogs:3", PLAN.url, "dogs", "3"),
        ("cats:3", PLAN.url, "cats", "3"),
        ("10.0.0.1:9001/dogs", "10.0.0.1:9001", "dogs", ""),
        ("http://10.0.0.1:8000/dogs:12", "http://10.0.0.1:8000", "dogs", "12"),
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000", "cats", ""),
        ("10.0.0.1:9001/", "10.0.0.1:9001", "cats", ""),
    ],
)
def test_a_model_gets_the_same_load(text: str, url: str, model: str, version: str) -> None:
    plan = parse_against(text, PLAN)
    assert isinstance(plan, BenchmarkPlan)
    assert (plan.url, plan.model, plan.version) == (url, model, version)
    assert (plan.scenario, plan.artifact) == (PLAN.scenario, None)


def test_a_record_is_read(record: Record, tmp_path: Path) -> None:
    write_record(tmp_path / "old.json", record)
    assert parse_against(str(tmp_path / "old.json"), PLAN) == record


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("cats", "benchmark.against_itself"),
        ("127.0.0.1:8001/cats", "benchmark.against_itself"),
        ("dogs:", "benchmark.model_version"),
        ("dogs:0", "benchmark.model_version"),
        ("10.0.0.1:9001/a b", "repository.model_name"),
        ("none.json", "record.unreadable"),
    ],
)
def test_what_cannot_be_compared_with_is_refused(text: str, code: str) -> None:
    with raises(InputError, code):
        parse_against(text, PLAN)


def test_a_search_of_rates_has_nothing_in_common_with_another() -> None:
    server = BenchmarkPlan("cats", PLAN.url, Scenario("Server", p99_bound_ms=50))
    with raises(InputError, "benchmark.against_search"):
        parse_against("dogs", server)


def test_versions_are_parsed() -> None:
    assert (parse_model("cats"), parse_model("cats:3")) == (("cats", ""), ("cats", "3"))
