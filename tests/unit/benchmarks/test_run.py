from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.load.arrivals import ClosedLoop
from benchmarks.load.level import LevelMeasurement
from benchmarks.records.record import Latencies
from benchmarks.run import more_processes_help

LEVEL = LevelMeasurement(
    load=ClosedLoop(64),
    requests=100,
    requests_per_s=10,
    latency=Latencies(mean_ms=1, p50_ms=1, p90_ms=1, p95_ms=1, p99_ms=1),
    from_send=None,
    slip=None,
    refused=None,
    remark=None,
    histogram="",
    samples=(),
    stable=True,
    windows=3,
    in_turns=False,
    errors=0,
    first_error=None,
    counted={},
    client_cores=0.9,
    processes=1,
    idle_cores=2.0,
    interrupted=None,
    counted_ns=((0, 1),),
    sent_per_s=None,
)


@pytest.mark.parametrize(
    ("changes", "cores", "helps"),
    [
        ({}, 4, True),
        ({}, 1, False),
        ({"client_cores": 0.8}, 4, False),
        ({"client_cores": 1.6, "processes": 2}, 4, False),
        ({"client_cores": 1.8, "processes": 2}, 4, True),
        ({"client_cores": 1.8, "processes": 2}, 3, False),
        ({"idle_cores": 0.2}, 4, False),
        ({"interrupted": KeyboardInterrupt()}, 4, False),
    ],
)
def test_processes_are_added_only_where_the_client_is_the_limit(
    changes: dict[str, object], cores: int, helps: bool
) -> None:
    assert more_processes_help(replace(LEVEL, **changes), cores) is helps  # type: ignore[arg-type]
